// Conversion between element types.
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels.h"

namespace accelcpu {
namespace {

struct Half { uint16_t bits; };
struct BFloat { uint16_t bits; };
struct Boolean { uint8_t byte; };

template <class To, class From>
inline To bit_cast(From f) {
  To t;
  static_assert(sizeof t == sizeof f, "same size");
  std::memcpy(&t, &f, sizeof t);
  return t;
}

inline float widen(Half h) {
  const uint32_t sign = (h.bits & 0x8000u) << 16, magnitude = h.bits & 0x7fffu;
  // With the exponent moved, multiplying by 2^112 sets its bias right, for subnormals as well.
  const float f = bit_cast<float>(magnitude << 13) * 0x1p112f;
  const uint32_t bits = magnitude >= 0x7c00u ? 0x7f800000u | (magnitude & 0x3ffu) << 13 : bit_cast<uint32_t>(f);
  return bit_cast<float>(bits | sign);
}

inline Half narrow_half(float f) {
  const uint32_t bits = bit_cast<uint32_t>(f), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t h;
  if (magnitude > 0x7f800000u) {
    h = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and up
    h = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: in units of 2^-24, by the rounding of an addition
    h = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    h = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(h | sign)};
}

inline float widen(BFloat b) { return bit_cast<float>(static_cast<uint32_t>(b.bits) << 16); }

inline BFloat narrow_bfloat(float f) {
  const uint32_t bits = bit_cast<uint32_t>(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

// A float that rounds to any narrower type as v itself would: v cut off, the last bit
// set where that lost something.
inline float sticky(double v) {
  if (v != v) return static_cast<float>(v);
  float f = static_cast<float>(v);
  if (f == v) return f;
  uint32_t bits = bit_cast<uint32_t>(f);
  if ((f < 0 ? -static_cast<double>(f) : f) > (v < 0 ? -v : v)) bits--;
  return bit_cast<float>(bits | 1u);
}
inline double sticky_double(uint64_t m) {
  if (m >> 53) m = (m & ~uint64_t{0x7ff}) | ((m & 0x7ff) ? 0x800 : 0);
  return static_cast<double>(m);
}

// The value that a stored element stands for.
template <class S>
inline S value_of(S s) { return s; }
inline float value_of(Half s) { return widen(s); }
inline float value_of(BFloat s) { return widen(s); }
inline uint8_t value_of(Boolean s) { return s.byte != 0; }

template <class V>
inline float to_sticky_float(V v) {
  if constexpr (std::is_same_v<V, float>) {
    return v;
  } else if constexpr (std::is_same_v<V, double>) {
    return sticky(v);
  } else if constexpr (std::is_signed_v<V>) {
    const int64_t wide = v;
    const double magnitude = sticky_double(wide < 0 ? 0 - static_cast<uint64_t>(wide) : static_cast<uint64_t>(wide));
    return sticky(wide < 0 ? -magnitude : magnitude);
  } else {
    return sticky(sticky_double(v));
  }
}

template <class D, class V>
inline D make(V v) {
  if constexpr (std::is_same_v<D, Half>) {
    return narrow_half(to_sticky_float(v));
  } else if constexpr (std::is_same_v<D, BFloat>) {
    return narrow_bfloat(to_sticky_float(v));
  } else if constexpr (std::is_same_v<D, Boolean>) {
    return {static_cast<uint8_t>(v != 0)};
  } else if constexpr (std::is_floating_point_v<V> && std::is_integral_v<D>) {
    constexpr D lowest = std::numeric_limits<D>::min(), highest = std::numeric_limits<D>::max();
    constexpr V beyond = static_cast<V>(highest / 2 + 1) * 2;  // a power of two, exact
    return v != v ? 0 : v >= beyond ? highest : v <= static_cast<V>(lowest) ? lowest : static_cast<D>(v);
  } else {
    return static_cast<D>(v);
  }
}

template <class S, class D>
void convert_run(const void* src, void* dst, int64_t n) {
  const S* s = static_cast<const S*>(src);
  D* d = static_cast<D*>(dst);
  if constexpr (std::is_same_v<S, D> && !std::is_same_v<S, Boolean>) {
    std::memmove(d, s, static_cast<size_t>(n) * sizeof(D));
  } else {
    for (int64_t i = 0; i < n; i++) d[i] = make<D>(value_of(s[i]));
  }
}

// f with the C++ type of an element type as its argument.
template <class F>
void with_type(uint32_t dtype, F f) {
  switch (dtype) {
    case ACCELCPU_F32: return f(float{});
    case ACCELCPU_U8: return f(uint8_t{});
    case ACCELCPU_I8: return f(int8_t{});
    case ACCELCPU_U16: return f(uint16_t{});
    case ACCELCPU_I16: return f(int16_t{});
    case ACCELCPU_I32: return f(int32_t{});
    case ACCELCPU_I64: return f(int64_t{});
    case ACCELCPU_BOOL: return f(Boolean{});
    case ACCELCPU_F16: return f(Half{});
    case ACCELCPU_F64: return f(double{});
    case ACCELCPU_U32: return f(uint32_t{});
    case ACCELCPU_U64: return f(uint64_t{});
    case ACCELCPU_BF16: return f(BFloat{});
  }
}

}  // namespace

int dtype_bytes(uint32_t dtype) {
  int bytes = 0;
  with_type(dtype, [&](auto t) { bytes = sizeof t; });
  return bytes;
}

void convert(const void* src, uint32_t src_type, void* dst, uint32_t dst_type, int64_t n) {
  with_type(src_type, [&](auto s) {
    with_type(dst_type, [&](auto d) { convert_run<decltype(s), decltype(d)>(src, dst, n); });
  });
}

void cast(Workers& w, const accelcpu_cast& o, const void* src, void* dst) {
  constexpr int64_t kGrain = 1 << 14;
  const int64_t src_bytes = dtype_bytes(o.src_type), dst_bytes = dtype_bytes(o.dst_type);
  w.each((o.n + kGrain - 1) / kGrain, [&](int64_t task, void*) {
    const int64_t begin = task * kGrain, n = o.n - begin < kGrain ? o.n - begin : kGrain;
    convert(static_cast<const char*>(src) + begin * src_bytes, o.src_type, static_cast<char*>(dst) + begin * dst_bytes, o.dst_type, n);
  });
}

}  // namespace accelcpu
