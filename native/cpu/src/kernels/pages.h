// Rows of pages, as they are stored and as numbers: plain types, int8, and 4 bits two a byte.
#ifndef ACCELCPU_PAGES_H
#define ACCELCPU_PAGES_H

#include "math.h"
#include "../kernels.h"

namespace accelcpu {
namespace {

// Element types of pages, as template arguments, in the order of page_format().
enum Page { kPageF32, kPageF16, kPageBF16, kPageI8, kPageU4, kPageTypes };

INLINE Page page_format(uint32_t dtype) {
  switch (dtype) {
    case ACCELCPU_F32: return kPageF32;
    case ACCELCPU_F16: return kPageF16;
    case ACCELCPU_BF16: return kPageBF16;
    case ACCELCPU_I8: return kPageI8;
    default: return kPageU4;
  }
}
INLINE int64_t page_bytes(Page p, int64_t elements) {
  return p == kPageF32 ? elements * 4 : p == kPageI8 ? elements : p == kPageU4 ? elements / 2 : elements * 2;
}

typedef uint16_t Halves __attribute__((vector_size(VEC_LANES * 2)));
typedef int8_t Bytes __attribute__((vector_size(VEC_LANES)));

template <class T>
INLINE T load_as(const void* p) {
  T t;
  std::memcpy(&t, p, sizeof t);
  return t;
}

// float16 to float: with the exponent moved, multiplying by 2^112 sets its bias right, for subnormals as well.
INLINE Vec widen_half(IVec h) {
  const IVec magnitude = h & 0x7fff;
  const Vec number = from_bits(magnitude << 13) * 0x1p112f;
  const IVec special = ((magnitude & 0x3ff) << 13) | 0x7f800000;
  return from_bits(((Mask)(magnitude >= 0x7c00) ? special : bits(number)) | ((h & 0x8000) << 16));
}

INLINE float half(uint16_t h) {
#if defined(VEC_AVX2) || defined(VEC_AVX512)
  return _cvtsh_ss(h);
#else
  return widen_half(isplat(h))[0];
#endif
}

// Elements [at, at + kLanes) of a row; `at` is a multiple of kLanes.
template <int P>
INLINE Vec page_load(const char* row, int64_t at) {
  if constexpr (P == kPageF32) {
    return load(reinterpret_cast<const float*>(row) + at);
  } else if constexpr (P == kPageF16) {
#if defined(VEC_AVX512)
    return _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + at * 2)));
#elif defined(VEC_AVX2)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + at * 2)));
#elif defined(VEC_NEON)
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(row + at * 2))));
#else
    return widen_half(__builtin_convertvector(load_as<Halves>(row + at * 2), IVec));
#endif
  } else if constexpr (P == kPageBF16) {
#if defined(VEC_AVX2)
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + at * 2))), 16));
#else
    return from_bits(__builtin_convertvector(load_as<Halves>(row + at * 2), IVec) << 16);
#endif
  } else if constexpr (P == kPageI8) {
#if defined(VEC_AVX2)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + at))));
#else
    return to_float(__builtin_convertvector(load_as<Bytes>(row + at), IVec));
#endif
  } else {
    IVec words, shift;
    if constexpr (kLanes == 16) {
      const uint64_t both = load_as<uint64_t>(row + at / 2);
      UNROLL for (int i = 0; i < kLanes; i++) words[i] = static_cast<int32_t>(i < 8 ? both : both >> 32);
    } else if constexpr (kLanes == 8) {
      words = isplat(load_as<int32_t>(row + at / 2));
    } else {
      words = isplat(load_as<uint16_t>(row + at / 2));
    }
    UNROLL for (int i = 0; i < kLanes; i++) shift[i] = i % 8 * 4;
    return to_float((words >> shift & 15) - 8);
  }
}

// The first n of them, n < kLanes; the others are 0.
template <int P>
INLINE Vec page_load_n(const char* row, int64_t at, int n) {
  Vec v = {};
  for (int i = 0; i < n; i++) {
    const int64_t j = at + i;
    if constexpr (P == kPageF32) {
      v[i] = reinterpret_cast<const float*>(row)[j];
    } else if constexpr (P == kPageF16) {
      v[i] = half(load_as<uint16_t>(row + j * 2));
    } else if constexpr (P == kPageBF16) {
      v[i] = from_bits(isplat(static_cast<int32_t>(load_as<uint16_t>(row + j * 2)) << 16))[0];
    } else if constexpr (P == kPageI8) {
      v[i] = static_cast<float>(static_cast<int8_t>(row[j]));
    } else {
      v[i] = static_cast<float>((static_cast<uint8_t>(row[j / 2]) >> (j % 2 * 4) & 15) - 8);
    }
  }
  return v;
}

// row[0..n) = x, rounded to nearest, ties to even.
template <int P>
void page_store(const float* x, int64_t n, char* row) {
#if defined(VEC_AVX2)
  if constexpr (P == kPageF16) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i * 2), _mm256_cvtps_ph(load(x + i), _MM_FROUND_TO_NEAREST_INT));
    x += i, n -= i, row += i * 2;
  }
#elif defined(VEC_AVX512)
  if constexpr (P == kPageF16) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + i * 2), _mm512_maskz_cvtps_ph(kAll, load(x + i), _MM_FROUND_TO_NEAREST_INT));
    x += i, n -= i, row += i * 2;
  }
#endif
  convert(x, ACCELCPU_F32, row, P == kPageF32 ? ACCELCPU_F32 : P == kPageF16 ? ACCELCPU_F16 : ACCELCPU_BF16, n);
}

// The same in steps of a scale, which is returned as float16: max|x| / limit. Where a number is none, so is the scale.
template <int P>
uint16_t page_quantise(const float* x, int64_t n, char* row) {
  constexpr float kLimit = P == kPageI8 ? 127.0f : 7.0f;
  Vec high = {};
  along(n, [&](int64_t j, int lanes) { high = max_nan(high, abs(load_up_to(x + j, lanes))); });
  const float exact = fold(high, [](Vec a, Vec b) { return max_nan(a, b); }) / kLimit;
  uint16_t stored;
  convert(&exact, ACCELCPU_F32, &stored, ACCELCPU_F16, 1);
  const float scale = half(stored);
  along(n, [&](int64_t j, int lanes) {
    Vec v = round(load_up_to(x + j, lanes) / scale);
    v = v != v ? Vec{} : v;
    v = scale == 0.0f ? Vec{} : min(splat(kLimit), max(splat(-kLimit), v));
    int32_t code[kLanes];
    const IVec whole = to_int(v);
    std::memcpy(code, &whole, sizeof code);
    if constexpr (P == kPageI8) {
      for (int i = 0; i < lanes; i++) row[j + i] = static_cast<char>(code[i]);
    } else {
      for (int i = 0; i + 1 < lanes; i += 2) row[(j + i) / 2] = static_cast<char>((code[i] + 8) | (code[i + 1] + 8) << 4);
    }
  });
  return stored;
}

// f with the page type as its template argument.
template <class F>
INLINE void with_page(Page p, F f) {
  switch (p) {
    case kPageF32: return f(std::integral_constant<int, kPageF32>());
    case kPageF16: return f(std::integral_constant<int, kPageF16>());
    case kPageBF16: return f(std::integral_constant<int, kPageBF16>());
    case kPageI8: return f(std::integral_constant<int, kPageI8>());
    default: return f(std::integral_constant<int, kPageU4>());
  }
}

}  // namespace
}  // namespace accelcpu
#endif
