// Chains of elementwise functions, a block of elements at a time.
#ifndef ACCELCPU_MAP_H
#define ACCELCPU_MAP_H

#include <math.h>

#include "../kernels.h"
#include "../map_shape.h"
#include "math.h"

namespace accelcpu {
namespace {

// An operand of a step: n values, or one for all.
template <class T>
struct Value {
  const T* p;
  bool one;
  INLINE T operator[](int64_t i) const { return one ? *p : p[i]; }
};

// ---- f32 ----

INLINE Vec truth(Mask m) { return m ? splat(1.0f) : Vec{}; }
INLINE Mask is_true(Vec v) { return (Mask)(v != 0.0f); }

template <class F>
INLINE void apply(Value<float> a, float* out, int64_t n, F f) {
  if (a.one) {
    const Vec r = f(splat(*a.p));
    for (int64_t i = 0; i < n; i++) out[i] = r[0];
    return;
  }
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(a.p + i)));
  if (i < n) store_n(out + i, f(load_n(a.p + i, static_cast<int>(n - i))), static_cast<int>(n - i));
}

template <class F>
INLINE void apply(Value<float> a, Value<float> b, float* out, int64_t n, F f) {
  const Vec a1 = splat(*a.p), b1 = splat(*b.p);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(a.one ? a1 : load(a.p + i), b.one ? b1 : load(b.p + i)));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store_n(out + i, f(a.one ? a1 : load_n(a.p + i, rest), b.one ? b1 : load_n(b.p + i, rest)), rest);
  }
}

template <class F>
INLINE void apply_scalar(Value<float> a, Value<float> b, float* out, int64_t n, F f) {
  for (int64_t i = 0; i < n; i++) out[i] = f(a[i], b[i]);
}

INLINE float floor_mod(float a, float b) {
  const float r = ::fmodf(a, b);
  return r != 0.0f && (r < 0.0f) != (b < 0.0f) ? r + b : r;
}

INLINE void step(uint8_t fn, Value<float> a, Value<float> b, Value<float> c, float* out, int64_t n, Fault&) {
#define UNARY(name, expression) \
  case ACCELCPU_FN_##name: return apply(a, out, n, [](Vec x) { return expression; })
#define BINARY(name, expression) \
  case ACCELCPU_FN_##name: return apply(a, b, out, n, [](Vec x, Vec y) { return expression; })
#define LIBM(name, function) \
  case ACCELCPU_FN_##name: return apply(a, out, n, [](Vec x) { return each_lane<::function>(x); })
  switch (fn) {
    UNARY(COPY, x);
    BINARY(ADD, x + y);
    BINARY(SUB, x - y);
    BINARY(MUL, x * y);
    BINARY(DIV, x / y);
    BINARY(MIN, min_nan(x, y));
    BINARY(MAX, max_nan(x, y));
    UNARY(NEG, -x);
    UNARY(ABS, abs(x));
    UNARY(SIGN, x > 0.0f ? splat(1.0f) : x < 0.0f ? splat(-1.0f) : x);
    BINARY(EQ, truth((Mask)(x == y)));
    BINARY(NE, truth((Mask)(x != y)));
    BINARY(LT, truth((Mask)(x < y)));
    BINARY(LE, truth((Mask)(x <= y)));
    BINARY(GT, truth((Mask)(x > y)));
    BINARY(GE, truth((Mask)(x >= y)));
    BINARY(AND, truth(is_true(x) & is_true(y)));
    BINARY(OR, truth(is_true(x) | is_true(y)));
    BINARY(XOR, truth(is_true(x) ^ is_true(y)));
    UNARY(NOT, truth(~is_true(x)));
    case ACCELCPU_FN_WHERE:
      for (int64_t i = 0; i < n; i++) out[i] = a[i] != 0.0f ? b[i] : c[i];
      return;
    case ACCELCPU_FN_MOD: return apply_scalar(a, b, out, n, floor_mod);
    case ACCELCPU_FN_FMOD: return apply_scalar(a, b, out, n, ::fmodf);
    case ACCELCPU_FN_POW:
      if (b.one && *b.p == 2.0f) return apply(a, out, n, [](Vec x) { return x * x; });
      return apply_scalar(a, b, out, n, ::powf);
    UNARY(SQRT, sqrt(x));
    UNARY(RSQRT, 1.0f / sqrt(x));
    UNARY(RECIP, 1.0f / x);
    UNARY(EXP, exp(x));
    UNARY(LOG, log(x));
    UNARY(TANH, tanh(x));
    UNARY(ERF, erf(x));
    UNARY(SIGMOID, sigmoid(x));
    UNARY(SILU, silu(x));
    UNARY(GELU_ERF, gelu_erf(x));
    UNARY(GELU_TANH, gelu_tanh(x));
    UNARY(RELU, relu(x));
    UNARY(FLOOR, floor(x));
    UNARY(CEIL, ceil(x));
    UNARY(ROUND, round(x));
    LIBM(SIN, sinf);
    LIBM(COS, cosf);
    LIBM(TAN, tanf);
    LIBM(ASIN, asinf);
    LIBM(ACOS, acosf);
    LIBM(ATAN, atanf);
    LIBM(SINH, sinhf);
    LIBM(COSH, coshf);
    LIBM(ASINH, asinhf);
    LIBM(ACOSH, acoshf);
    LIBM(ATANH, atanhf);
    UNARY(SOFTPLUS, softplus(x));
    UNARY(ISNAN, truth((Mask)(x != x)));
  }
#undef UNARY
#undef BINARY
#undef LIBM
}

// ---- i64: arithmetic wraps around ----

INLINE int64_t wrap(uint64_t v) { return static_cast<int64_t>(v); }
INLINE uint64_t lift(int64_t v) { return static_cast<uint64_t>(v); }

INLINE int64_t int_div(int64_t a, int64_t b) { return b == -1 ? wrap(0 - lift(a)) : a / b; }
INLINE int64_t int_fmod(int64_t a, int64_t b) { return b == -1 ? 0 : a % b; }
INLINE int64_t int_mod(int64_t a, int64_t b) {
  const int64_t r = int_fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
INLINE int64_t int_pow(int64_t a, int64_t b) {
  if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
  uint64_t r = 1;
  for (uint64_t square = lift(a); b; b >>= 1, square *= square) {
    if (b & 1) r *= square;
  }
  return wrap(r);
}

INLINE void step(uint8_t fn, Value<int64_t> a, Value<int64_t> b, Value<int64_t> c, int64_t* out, int64_t n, Fault& fault) {
#define EACH(name, expression)                           \
  case ACCELCPU_FN_##name:                               \
    for (int64_t i = 0; i < n; i++) {                    \
      const int64_t x = a[i], y = b[i];                  \
      (void)y;                                           \
      out[i] = expression;                               \
    }                                                    \
    return
#define EACH_DIVISION(name, function)                    \
  case ACCELCPU_FN_##name:                               \
    for (int64_t i = 0; i < n; i++) {                    \
      if (b[i] == 0) return fault.set(ACCELCPU_DIVIDE, a[i], 0); \
      out[i] = function(a[i], b[i]);                     \
    }                                                    \
    return
  switch (fn) {
    EACH(COPY, x);
    EACH(ADD, wrap(lift(x) + lift(y)));
    EACH(SUB, wrap(lift(x) - lift(y)));
    EACH(MUL, wrap(lift(x) * lift(y)));
    EACH(MIN, x < y ? x : y);
    EACH(MAX, x > y ? x : y);
    EACH(NEG, wrap(0 - lift(x)));
    EACH(ABS, x < 0 ? wrap(0 - lift(x)) : x);
    EACH(SIGN, (x > 0) - (x < 0));
    EACH(EQ, x == y);
    EACH(NE, x != y);
    EACH(LT, x < y);
    EACH(LE, x <= y);
    EACH(GT, x > y);
    EACH(GE, x >= y);
    EACH(AND, x && y);
    EACH(OR, x || y);
    EACH(XOR, !x != !y);
    EACH(NOT, !x);
    EACH(WHERE, x ? y : c[i]);
    EACH(POW, int_pow(x, y));
    EACH_DIVISION(DIV, int_div);
    EACH_DIVISION(MOD, int_mod);
    EACH_DIVISION(FMOD, int_fmod);
  }
#undef EACH
#undef EACH_DIVISION
}

// ---- Blocks ----

constexpr int64_t kMapBlock = 512;

// Moves `columns` elements of each of `rows` rows between strided memory and a dense block.
template <class T>
INLINE void gather_rows(const char* base, const int64_t* row_at, int64_t rows, int64_t columns, int64_t stride, void* block) {
  T* to = static_cast<T*>(block);
  for (int64_t r = 0; r < rows; r++) {
    const T* from = reinterpret_cast<const T*>(base) + row_at[r];
    for (int64_t j = 0; j < columns; j++) *to++ = from[j * stride];
  }
}
template <class T>
INLINE void scatter_rows(const void* block, const int64_t* row_at, int64_t rows, int64_t columns, int64_t stride, char* base) {
  const T* from = static_cast<const T*>(block);
  for (int64_t r = 0; r < rows; r++) {
    T* to = reinterpret_cast<T*>(base) + row_at[r];
    for (int64_t j = 0; j < columns; j++) to[j * stride] = *from++;
  }
}
#define BY_BYTES(bytes, function, ...)                         \
  switch (bytes) {                                             \
    case 1: function<uint8_t>(__VA_ARGS__); break;             \
    case 2: function<uint16_t>(__VA_ARGS__); break;            \
    case 4: function<uint32_t>(__VA_ARGS__); break;            \
    case 8: function<uint64_t>(__VA_ARGS__); break;            \
  }

template <class T>
void map_blocks(Workers& w, const accelcpu_map& o, const MapData& d, const MapShape& shape) {
  constexpr uint32_t kType = sizeof(T) == 4 ? ACCELCPU_F32 : ACCELCPU_I64;
  // A block is a stretch of one row, or several whole short rows.
  const int64_t width = shape.dims[shape.rank - 1];
  const int64_t columns = min_of(width, kMapBlock), block_rows = width >= kMapBlock / 2 ? 1 : kMapBlock / width;
  const int64_t stretches = ceil_div(width, columns), row_groups = ceil_div(shape.rows, block_rows);
  const int64_t blocks = stretches * row_groups, per_task = max_of<int64_t>(1, 8192 / (columns * block_rows));

  w.each(ceil_div(blocks, per_task), [&](int64_t task, void* scratch) {
    T* memory = static_cast<T*>(scratch);
    T* inputs[ACCELCPU_MAP_INPUTS];
    for (auto& input : inputs) input = memory, memory += kMapBlock;
    T* results[ACCELCPU_MAP_STEPS];
    for (auto& result : results) result = memory, memory += kMapBlock;
    void* raw = memory;  // elements as they are stored, before or after their conversion
    memory += kMapBlock * 8 / static_cast<int64_t>(sizeof(T));
    int64_t* row_at[ACCELCPU_MAP_INPUTS + 1];
    for (auto& at : row_at) at = reinterpret_cast<int64_t*>(memory), memory += kMapBlock * 8 / static_cast<int64_t>(sizeof(T));

    for (int64_t block = task * per_task; block < min_of(blocks, (task + 1) * per_task); block++) {
      const int64_t row0 = block / stretches * block_rows, rows = min_of(block_rows, shape.rows - row0);
      const int64_t column = block % stretches * columns, cols = min_of(columns, width - column), n = rows * cols;
      for (uint32_t x = 0; x <= o.inputs; x++) shape.offsets(x, row0, rows, column, row_at[x]);

      // Steps name operands that they do not use as well: those have to be readable.
      Value<T> value[8 + ACCELCPU_MAP_STEPS];
      for (auto& v : value) v = {inputs[0], true};
      *inputs[0] = T{};
      for (uint32_t x = 0; x < o.inputs; x++) {
        const int64_t stride = shape.stride[x][shape.rank - 1];
        const uint32_t type = o.in[x].dtype;
        const int bytes = shape.bytes[x];
        const char* base = static_cast<const char*>(d.in[x]);
        const bool one = shape.constant[x] || (rows == 1 && stride == 0), dense = rows == 1 && stride == 1;
        const char* from = base + row_at[x][0] * bytes;
        value[x] = {inputs[x], one};
        if (one) {
          convert(from, type, inputs[x], kType, 1);
        } else if (dense && type == kType) {
          value[x].p = reinterpret_cast<const T*>(from);
        } else if (dense) {
          convert(from, type, inputs[x], kType, n);
        } else {
          BY_BYTES(bytes, gather_rows, base, row_at[x], rows, cols, stride, raw);
          convert(raw, type, inputs[x], kType, n);
        }
      }

      const int64_t out_stride = shape.stride[o.inputs][shape.rank - 1];
      char* out = static_cast<char*>(d.out);
      char* to = out + row_at[o.inputs][0] * shape.bytes[o.inputs];
      const bool dense = rows == 1 && out_stride == 1;
      for (uint32_t s = 0; s < o.steps; s++) {
        const accelcpu_step& st = o.step[s];
        const bool straight = s + 1 == o.steps && dense && o.out.dtype == kType;
        T* result = straight ? reinterpret_cast<T*>(to) : results[s];
        if (st.fn == ACCELCPU_FN_CONST) {
          std::memcpy(results[s], &st.imm, sizeof(T));  // the low half for f32
          value[8 + s] = {results[s], true};
          if (s + 1 < o.steps) continue;
          step(ACCELCPU_FN_COPY, value[8 + s], value[8 + s], value[8 + s], result, n, w.fault);
        } else {
          step(st.fn, value[st.a], value[st.b], value[st.c], result, n, w.fault);
          value[8 + s] = {result, false};
        }
      }
      if (dense && o.out.dtype == kType) continue;
      const T* last = results[o.steps - 1];
      if (dense) {
        convert(last, kType, to, o.out.dtype, n);
      } else {
        convert(last, kType, raw, o.out.dtype, n);
        BY_BYTES(shape.bytes[o.inputs], scatter_rows, raw, row_at[o.inputs], rows, cols, out_stride, out);
      }
    }
  });
}

void map(Workers& w, const accelcpu_map& o, const MapData& d) {
  const MapShape shape(o);
  if (shape.rows == 0) return;
  if (o.compute == ACCELCPU_F32) {
    map_blocks<float>(w, o, d, shape);
  } else {
    map_blocks<int64_t>(w, o, d, shape);
  }
}

}  // namespace
}  // namespace accelcpu
#endif
