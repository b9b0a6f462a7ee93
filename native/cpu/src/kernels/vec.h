// The vector of an instruction set, over the compilers' vector extensions: the usual
// operators work on it, comparisons give a Mask, `mask ? a : b` selects. Included
// by each object of src/isa, which defines VEC_LANES and at most one of VEC_AVX2,
// VEC_AVX512 and VEC_NEON. Everything lies in an unnamed namespace: no symbol
// of one instruction set may ever be linked into another.
#ifndef ACCELCPU_VEC_H
#define ACCELCPU_VEC_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(VEC_AVX2) || defined(VEC_AVX512)
#include <immintrin.h>
#elif defined(VEC_NEON)
#include <arm_neon.h>
#endif

namespace accelcpu {
namespace {

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define UNROLL _Pragma("GCC unroll 32")

constexpr int kLanes = VEC_LANES;

#if defined(VEC_AVX512)
using Vec = __m512;
#elif defined(VEC_AVX2)
using Vec = __m256;
#elif defined(VEC_NEON)
using Vec = float32x4_t;
#else
typedef float Vec __attribute__((vector_size(VEC_LANES * 4)));
#endif
typedef int32_t Mask __attribute__((vector_size(VEC_LANES * 4)));
using IVec = Mask;

typedef float UnalignedVec __attribute__((vector_size(VEC_LANES * 4), aligned(4), may_alias));

INLINE Vec load(const float* p) { return (Vec)*(const UnalignedVec*)p; }
INLINE void store(float* p, Vec v) { *(UnalignedVec*)p = (UnalignedVec)v; }
INLINE Vec splat(float x) { return x - Vec{}; }
// v, in a register from here on: for values that the compiler would read again at each use, or see through.
INLINE Vec kept(Vec v) {
#if defined(VEC_AVX512)
  asm("" : "+v"(v));
#elif defined(VEC_AVX2)
  asm("" : "+x"(v));
#elif defined(VEC_NEON)
  asm("" : "+w"(v));
#endif
  return v;
}
INLINE IVec isplat(int32_t x) { return x - IVec{}; }
INLINE IVec bits(Vec v) { return (IVec)v; }
INLINE Vec from_bits(IVec v) { return (Vec)v; }

INLINE Vec abs(Vec v) { return from_bits(bits(v) & 0x7fffffff); }
INLINE Vec with_sign(Vec magnitude, Vec sign) {
  return from_bits((bits(magnitude) & 0x7fffffff) | (bits(sign) & INT32_MIN));
}
// Where either is NaN these give b, as the x86 instructions do.
#if defined(VEC_AVX512)
INLINE Vec max(Vec a, Vec b) { return _mm512_maskz_max_ps(0xffff, a, b); }
INLINE Vec min(Vec a, Vec b) { return _mm512_maskz_min_ps(0xffff, a, b); }
#elif defined(VEC_AVX2)
INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
#else
INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
#endif
// And these give NaN.
INLINE Vec max_nan(Vec a, Vec b) { return (Mask)(a > b) | (Mask)(a != a) ? a : b; }
INLINE Vec min_nan(Vec a, Vec b) { return (Mask)(a < b) | (Mask)(a != a) ? a : b; }

#if defined(VEC_AVX512)

// The forms with a mask, of all lanes: gcc 12 warns of the others' undefined operand.
constexpr __mmask16 kAll = 0xffff;
INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1); }
INLINE Vec load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
INLINE void store_n(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vec sqrt(Vec v) { return _mm512_maskz_sqrt_ps(kAll, v); }
INLINE Vec round(Vec v) { return _mm512_maskz_roundscale_ps(kAll, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE Vec floor(Vec v) { return _mm512_maskz_roundscale_ps(kAll, v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
INLINE Vec ceil(Vec v) { return _mm512_maskz_roundscale_ps(kAll, v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
INLINE IVec to_int(Vec v) { return (IVec)_mm512_maskz_cvtps_epi32(kAll, v); }
INLINE Vec to_float(IVec v) { return _mm512_maskz_cvtepi32_ps(kAll, (__m512i)v); }

#elif defined(VEC_AVX2)

INLINE __m256i first(int n) {
  alignas(64) static const int32_t window[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(window + 8 - n));
}
INLINE Vec load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
INLINE void store_n(float* p, Vec v, int n) { _mm256_maskstore_ps(p, first(n), v); }
INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vec sqrt(Vec v) { return _mm256_sqrt_ps(v); }
INLINE Vec round(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE Vec floor(Vec v) { return _mm256_floor_ps(v); }
INLINE Vec ceil(Vec v) { return _mm256_ceil_ps(v); }
INLINE IVec to_int(Vec v) { return (IVec)_mm256_cvtps_epi32(v); }
INLINE Vec to_float(IVec v) { return _mm256_cvtepi32_ps((__m256i)v); }

#else

INLINE Vec load_n(const float* p, int n) {
  float t[kLanes] = {};
  for (int i = 0; i < n; i++) t[i] = p[i];
  return load(t);
}
INLINE void store_n(float* p, Vec v, int n) {
  float t[kLanes];
  store(t, v);
  for (int i = 0; i < n; i++) p[i] = t[i];
}

#if defined(VEC_NEON)

INLINE Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
INLINE Vec sqrt(Vec v) { return vsqrtq_f32(v); }
INLINE Vec round(Vec v) { return vrndnq_f32(v); }
INLINE Vec floor(Vec v) { return vrndmq_f32(v); }
INLINE Vec ceil(Vec v) { return vrndpq_f32(v); }
INLINE IVec to_int(Vec v) { return (IVec)vcvtnq_s32_f32(v); }
INLINE Vec to_float(IVec v) { return vcvtq_f32_s32((int32x4_t)v); }

#else

// Two roundings where there is no instruction for one: the object's flags decide.
INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
INLINE Vec sqrt(Vec v) {
  for (int i = 0; i < kLanes; i++) v[i] = __builtin_sqrtf(v[i]);
  return v;
}
// Adding 2^23 leaves no room for a fraction, so that the addition rounds.
INLINE Vec round(Vec v) {
  const Vec big = splat(8388608.0f), a = abs(v);
  return a < big ? with_sign((a + big) - big, v) : v;
}
INLINE Vec floor(Vec v) {
  const Vec r = round(v);
  return r > v ? r - 1.0f : r;
}
INLINE Vec ceil(Vec v) {
  const Vec r = round(v);
  return with_sign(r < v ? r + 1.0f : r, v);
}
// For whole numbers.
INLINE IVec to_int(Vec v) { return __builtin_convertvector(v, IVec); }
INLINE Vec to_float(IVec v) { return __builtin_convertvector(v, Vec); }

#endif
#endif

// f(j, n) for the vectors of a row of `cols`: at j, n lanes of it.
template <class F>
INLINE void along(int64_t cols, F f) {
  int64_t j = 0;
  for (; j + kLanes <= cols; j += kLanes) f(j, kLanes);
  if (j < cols) f(j, static_cast<int>(cols - j));
}
INLINE Vec load_up_to(const float* p, int n) { return n == kLanes ? load(p) : load_n(p, n); }
INLINE void store_up_to(float* p, Vec v, int n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store_n(p, v, n);
  }
}

// All lanes joined by f, as a tree; f takes and gives vectors.
template <int Step, int... I>
INLINE Vec exchange(Vec v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ Step)...);
}
template <class F>
INLINE float fold(Vec v, F f) {
  using Lanes = std::make_integer_sequence<int, kLanes>;
  if constexpr (kLanes > 8) v = f(v, exchange<8>(v, Lanes()));
  if constexpr (kLanes > 4) v = f(v, exchange<4>(v, Lanes()));
  v = f(v, exchange<2>(v, Lanes()));
  return f(v, exchange<1>(v, Lanes()))[0];
}
INLINE float sum(Vec v) {
  return fold(v, [](Vec a, Vec b) { return a + b; });
}
INLINE float greatest(Vec v) {
  return fold(v, [](Vec a, Vec b) { return max(a, b); });
}
template <class T>
constexpr INLINE T min_of(T a, T b) { return a < b ? a : b; }
template <class T>
constexpr INLINE T max_of(T a, T b) { return a > b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Cuts `size` into `count` parts that differ by one at most; part i begins here.
INLINE int64_t part(int64_t i, int64_t size, int64_t count) { return i * size / count; }

}  // namespace
}  // namespace accelcpu
#endif
