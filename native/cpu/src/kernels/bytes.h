// Codes of a byte and floats of 16 bits on the vector of an instruction set. Beside vec.h, the only
// file with intrinsics.
#ifndef ACCELCPU_BYTES_H
#define ACCELCPU_BYTES_H

#include "vec.h"

namespace accelcpu {
namespace {

constexpr int kVecBytes = 4 * kLanes;

typedef int32_t UnalignedIVec __attribute__((vector_size(VEC_LANES * 4), aligned(1), may_alias));
typedef uint8_t ByteVec __attribute__((vector_size(VEC_LANES * 4)));
typedef int16_t ShortVec __attribute__((vector_size(VEC_LANES * 4)));

INLINE IVec load_bytes(const uint8_t* p) { return (IVec)*(const UnalignedIVec*)p; }
INLINE void store_bytes(uint8_t* p, IVec v) { *(UnalignedIVec*)p = (UnalignedIVec)v; }
// Four bytes in every lane.
INLINE IVec splat_bytes(const int8_t* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof word);
  return isplat(word);
}

// As kept of floats: an order of additions that the compiler may not change, for it would hold all summands at once.
INLINE IVec kept(IVec v) {
#if defined(VEC_AVX512)
  asm volatile("" : "+v"(v));
#elif defined(VEC_AVX2)
  asm volatile("" : "+x"(v));
#elif defined(VEC_NEON)
  asm volatile("" : "+w"(v));
#endif
  return v;
}

// The bits of a float, to be told from one another by their types.
struct Half { uint16_t bits; };
struct BFloat { uint16_t bits; };
// Two of them that are neighbours along k, the first in the low half of a lane.
struct Pair { BFloat first, second; };

typedef uint16_t UnalignedWords __attribute__((vector_size(VEC_LANES * 2), aligned(2), may_alias));
typedef uint8_t UnalignedOctets __attribute__((vector_size(VEC_LANES), aligned(1), may_alias));

INLINE Vec load_as_float(const float* p) { return load(p); }
INLINE Vec load_as_float(const BFloat* p) { return from_bits(__builtin_convertvector(*(const UnalignedWords*)p, IVec) << 16); }
INLINE IVec load_pairs(const Pair* p) { return load_bytes(reinterpret_cast<const uint8_t*>(p)); }
INLINE Vec first_of(IVec pairs) { return from_bits(pairs << 16); }
INLINE Vec second_of(IVec pairs) { return from_bits(kept(pairs >> 16) << 16); }  // a mask would take a register
INLINE Vec load_as_float(const uint8_t* p) { return to_float(__builtin_convertvector(*(const UnalignedOctets*)p, IVec)); }
#if defined(VEC_AVX512)
INLINE Vec load_as_float(const Half* p) { return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256((const __m256i*)p)); }
#elif defined(VEC_AVX2)
INLINE Vec load_as_float(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
#elif defined(VEC_NEON)
INLINE Vec load_as_float(const Half* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p))); }
#else
INLINE Vec load_as_float(const Half* p) {
  const IVec x = __builtin_convertvector(*(const UnalignedWords*)p, IVec), magnitude = x & 0x7fff;
  // 2^112 is between the two exponents' zeros, and makes subnormals normal.
  Vec v = from_bits(magnitude << 13) * 0x1p112f;
  v = magnitude >= 0x7c00 ? from_bits(bits(v) | 0x7f800000) : v;
  return from_bits(bits(v) | (x & 0x8000) << 16);
}
#endif

// Products of codes of `Bits` bits, without sign, and numbers from -127 to 127, both four to a lane, summed
// up in 32 bits. A sum takes kSteps steps at most, each of kGroup vectors of either; the codes count from kBias.
template <int Bits>
struct Dots {
#if defined(VEC_VNNI)
  static constexpr int kGroup = 1, kBias = 0;
  using Codes = IVec;
  static INLINE Codes codes(IVec w) { return w; }
  static INLINE IVec add(IVec sum, const Codes* w, const IVec* a) {
#if defined(VEC_AVX512)
    return (IVec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w[0], (__m512i)a[0]);
#else
    return (IVec)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w[0], (__m256i)a[0]);
#endif
  }
  static INLINE IVec total(IVec sum) { return sum; }
#else
  static constexpr int kGroup = 1, kBias = 0;
  using Codes = IVec;
  static INLINE Codes codes(IVec w) { return w; }
  // 255 * 127 is within 16 bits.
  static INLINE IVec add(IVec sum, const Codes* w, const IVec* a) {
    const ShortVec even = (ShortVec)(w[0] & 0x00ff00ff) * (((ShortVec)a[0] << 8) >> 8);
    const ShortVec odd = (ShortVec)((w[0] >> 8) & 0x00ff00ff) * ((ShortVec)a[0] >> 8);
    return sum + (((IVec)even << 16) >> 16) + ((IVec)even >> 16) + (((IVec)odd << 16) >> 16) + ((IVec)odd >> 16);
  }
  static INLINE IVec total(IVec sum) { return sum; }
#endif
};

#if (defined(VEC_AVX2) || defined(VEC_AVX512)) && !defined(VEC_VNNI)

#if defined(VEC_AVX512)
INLINE ShortVec pairs(IVec codes, IVec a) { return (ShortVec)_mm512_maddubs_epi16((__m512i)codes, (__m512i)a); }
INLINE IVec widened(ShortVec v) { return (IVec)_mm512_madd_epi16((__m512i)v, _mm512_set1_epi16(1)); }
#else
INLINE ShortVec pairs(IVec codes, IVec a) { return (ShortVec)_mm256_maddubs_epi16((__m256i)codes, (__m256i)a); }
INLINE IVec widened(ShortVec v) { return (IVec)_mm256_madd_epi16((__m256i)v, _mm256_set1_epi16(1)); }
#endif

// 8 * 2 * 15 * 127 is within 16 bits: a unit of 32 is widened but once.
struct NibbleDots {
  static constexpr int kGroup = 1, kBias = 0;
  using Codes = IVec;
  static INLINE Codes codes(IVec w) { return w; }
  static INLINE IVec add(IVec sum, const Codes* w, const IVec* a) { return (IVec)((ShortVec)sum + pairs(w[0], a[0])); }
  static INLINE IVec total(IVec sum) { return widened((ShortVec)sum); }
};
template <> struct Dots<2> : NibbleDots {};
template <> struct Dots<3> : NibbleDots {};
template <> struct Dots<4> : NibbleDots {};

// And so is 2 * 2 * 63 * 127.
struct PairDots {
  static constexpr int kGroup = 2, kBias = 0;
  using Codes = IVec;
  static INLINE Codes codes(IVec w) { return w; }
  static INLINE IVec add(IVec sum, const Codes* w, const IVec* a) { return sum + widened(pairs(w[0], a[0]) + pairs(w[1], a[1])); }
  static INLINE IVec total(IVec sum) { return sum; }
};
template <> struct Dots<5> : PairDots {};
template <> struct Dots<6> : PairDots {};

#if defined(VEC_AVX2)
// Two products of 255 * 127 are not; of -128 * 127 they are. The instruction wants one side without sign: it
// takes the code's size, and its sign goes to the other side.
template <>
struct Dots<8> {
  static constexpr int kGroup = 1, kBias = 128;
  struct Codes { IVec size, value; };
  static INLINE Codes codes(IVec w) {
    const __m256i v = (__m256i)(w ^ (int32_t)0x80808080);
    return {(IVec)_mm256_abs_epi8(v), (IVec)v};
  }
  static INLINE IVec add(IVec sum, const Codes* w, const IVec* a) {
    return sum + widened(pairs(w[0].size, (IVec)_mm256_sign_epi8((__m256i)a[0], (__m256i)w[0].value)));
  }
  static INLINE IVec total(IVec sum) { return sum; }
};
#endif

#endif

}  // namespace
}  // namespace accelcpu
#endif
