// Elementary functions on Vec. The polynomials are minimax fits of our own (Remez
// exchange); beside each stand its interval and the error of the fit. The error of each
// function, measured, is in accelcpu.h. Results below 2^-126 may come out as zero.
#ifndef ACCELCPU_MATH_H
#define ACCELCPU_MATH_H

#include "vec.h"

namespace accelcpu {
namespace {

INLINE Vec polynomial(Vec, Vec sum) { return sum; }
// Coefficients from the highest power to the lowest.
template <class... C>
INLINE Vec polynomial(Vec x, Vec sum, float c, C... rest) {
  return polynomial(x, fma(sum, x, splat(c)), rest...);
}
template <class... C>
INLINE Vec polynomial(Vec x, float first, C... rest) {
  return polynomial(x, splat(first), rest...);
}

// 2^n for whole n in [-127, 127]; -127 gives 0.
INLINE Vec power_of_two(IVec n) { return from_bits((n + 127) << 23); }

// e^r for |r| <= ln(2)/2: 2^-28.2.
INLINE Vec exp_reduced(Vec r) {
  const Vec p = polynomial(r, 0x1.6a2436p-10f, 0x1.1239e2p-7f, 0x1.5558f2p-5f, 0x1.555492p-3f, 0x1.fffffcp-2f);
  return fma(p, r * r, r) + 1.0f;
}
constexpr float kLog2E = 0x1.715476p+0f;
// ln(2) in two parts; the high one has 9 zero bits at its end, so that n times it is exact.
constexpr float kLn2High = 0x1.62e400p-1f, kLn2Low = 0x1.7f7d1cp-20f;

// e^x for x <= 88, as softmax needs it: below -87.3 gives 0.
INLINE Vec exp_nonpositive(Vec x) {
  x = max(splat(-88.0f), x);
  const Vec n = round(x * kLog2E);
  const Vec r = fma(n, splat(-kLn2Low), fma(n, splat(-kLn2High), x));
  return exp_reduced(r) * power_of_two(to_int(n));
}

INLINE Vec exp(Vec x) {
  const Vec c = min(splat(89.0f), max(splat(-105.0f), x));
  const Vec n = round(c * kLog2E);
  const Vec r = fma(n, splat(-kLn2Low), fma(n, splat(-kLn2High), c));
  // 2^n in two factors: n reaches 128, and -151 among the denormals.
  const IVec i = to_int(n), half = i >> 1;
  return exp_reduced(r) * power_of_two(half) * power_of_two(i - half);
}

INLINE Vec log(Vec x) {
  const Mask tiny = (Mask)(x < 0x1p-126f);
  const Vec scaled = tiny ? x * 0x1p23f : x;
  // x = 2^e * m with m in [sqrt(1/2), sqrt(2)).
  const IVec above = bits(scaled) - 0x3f3504f3;
  const Vec e = to_float(above >> 23) - (tiny ? splat(23.0f) : Vec{});
  const Vec f = from_bits((above & 0x7fffff) + 0x3f3504f3) - 1.0f;
  const Vec f2 = f * f;
  // (log(1+f) - f + f^2/2) / f^3: 2^-27.3 of the logarithm.
  const Vec p = polynomial(f, -0x1.38b57cp-4f, 0x1.055b68p-3f, -0x1.0d8542p-3f, 0x1.22da1ep-3f, -0x1.547244p-3f, 0x1.99a008p-3f, -0x1.000226p-2f, 0x1.555554p-2f);
  Vec y = fma(e, splat(kLn2Low), p * (f2 * f));
  y = fma(f2, splat(-0.5f), y) + f;
  y = fma(e, splat(kLn2High), y);
  y = x == INFINITY ? x : y;
  y = x == 0.0f ? splat(-INFINITY) : y;
  return x >= 0.0f ? y : splat(NAN);
}

INLINE Vec log1p_small(Vec t) {  // t in [0, 1]
  const Vec u = 1.0f + t;
  return u == 1.0f ? t : log(u) * (t / (u - 1.0f));
}

// By e^-|x|, which can't overflow.
INLINE Vec sigmoid(Vec x) {
  const Vec e = exp(-abs(x));
  return (x < 0.0f ? e : splat(1.0f)) / (1.0f + e);
}
INLINE Vec silu(Vec x) {
  const Vec e = exp(-abs(x));
  return (x < 0.0f ? x * e : x) / (1.0f + e);
}

INLINE Vec tanh(Vec x) {
  const Vec a = abs(x), s = x * x;
  const Vec large = with_sign(1.0f - 2.0f / (exp_nonpositive(2.0f * min(splat(10.0f), a)) + 1.0f), x);
  // (tanh(x)/x - 1) / x^2 for |x| <= 0.625: 2^-27.7.
  const Vec p = polynomial(s, -0x1.75e1cep-8f, 0x1.52269cp-6f, -0x1.b83c5ap-5f, 0x1.110726p-3f, -0x1.555532p-2f);
  const Vec small = fma(x * s, p, x);
  return a < 0.625f ? small : large;
}

// The normal distribution's tail, P(Z > a) for a >= 0. Its binary logarithm is fitted,
// weighted so that the result is within 2^-26.9 in absolute terms; it
// goes to 0 with a good relative accuracy up to a = 6 and some beyond.
INLINE Vec normal_tail(Vec a) {
  a = min(a, splat(12.0f));
  const Vec q = polynomial(a, -0x1.7c7e02p-19f, 0x1.4a5254p-15f, -0x1.86720ap-13f, -0x1.1f2ed4p-13f, 0x1.cee898p-8f, -0x1.ae0c78p-5f, -0x1.d63aacp-2f, -0x1.26aed4p+0f);
  const Vec y = max(fma(q, a, splat(-1.0f)), splat(-127.0f));
  const Vec n = round(y), f = y - n;
  // (2^f - 1) / f for |f| <= 1/2: 2^-28.9.
  const Vec p = polynomial(f, 0x1.448feap-13f, 0x1.5f47dep-10f, 0x1.3b29aap-7f, 0x1.c6aed0p-5f, 0x1.ebfbe0p-3f, 0x1.62e430p-1f);
  return fma(p, f, splat(1.0f)) * power_of_two(to_int(n));
}

INLINE Vec erf(Vec x) {
  const Vec a = abs(x), s = x * x;
  const Vec large = with_sign(fma(normal_tail(a * 0x1.6a09e6p+0f), splat(-2.0f), splat(1.0f)), x);
  // erf(x)/x - 1 for |x| <= 1: 2^-29.6.
  const Vec p = polynomial(s, 0x1.496a30p-14f, -0x1.a3f700p-11f, 0x1.5405b2p-8f, -0x1.b7f90cp-6f, 0x1.ce2cf8p-4f, -0x1.81273ep-2f, 0x1.06eba8p-3f);
  const Vec small = fma(x, p, x);
  return (Mask)(a > 1.0f) & (Mask)(x == x) ? large : small;
}

INLINE Vec gelu_erf(Vec x) {
  const Vec tail = normal_tail(abs(x));
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

// x/2 * (1 + tanh(u)) = x * sigmoid(2u).
INLINE Vec gelu_tanh(Vec x) {
  const Vec u2 = x * fma(x * x, splat(-0x1.2444f2p-4f), splat(-0x1.988454p+0f));
  return x / (1.0f + exp(u2));
}

INLINE Vec relu(Vec x) { return x < 0.0f ? Vec{} : x; }

INLINE Vec softplus(Vec x) { return max_nan(x, Vec{}) + log1p_small(exp(-abs(x))); }

template <float (*F)(float)>
INLINE Vec each_lane(Vec x) {
  float t[kLanes];
  store(t, x);
  for (int i = 0; i < kLanes; i++) t[i] = F(t[i]);
  return load(t);
}

template <int Activation>
INLINE Vec activate(Vec x) {
  switch (Activation) {
    case ACCELCPU_ACT_NONE: break;
    case ACCELCPU_ACT_RELU: return relu(x);
    case ACCELCPU_ACT_GELU_ERF: return gelu_erf(x);
    case ACCELCPU_ACT_GELU_TANH: return gelu_tanh(x);
    case ACCELCPU_ACT_SILU: return silu(x);
    case ACCELCPU_ACT_TANH: return tanh(x);
    case ACCELCPU_ACT_SIGMOID: return sigmoid(x);
  }
  return x;
}
constexpr int kActivations = 7;

}  // namespace
}  // namespace accelcpu
#endif
