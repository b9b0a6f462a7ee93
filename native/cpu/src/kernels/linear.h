// Products with packed weights of floats, and how these are packed.
#ifndef ACCELCPU_LINEAR_H
#define ACCELCPU_LINEAR_H

#include "gemm.h"

namespace accelcpu {
namespace {

// Elements of either, in turn, from the middle of each or from the beginning.
template <int From, class Row, int... I>
INLINE Row zip(Row a, Row b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (From + I / 2 + (I % 2 ? static_cast<int>(sizeof...(I)) : 0))...);
}

// The columns of a square of 16 byte rows of words, as rows; both strides in bytes. The first half of the rows is zipped with the
// second until each has been everywhere.
template <class Word>
INLINE void transpose_square(const char* from, int64_t from_stride, char* to, int64_t to_stride) {
  constexpr int n = 16 / sizeof(Word);
  using All = std::make_integer_sequence<int, n>;
  typedef Word Row __attribute__((vector_size(16)));
  Row rows[n], zipped[n];
  UNROLL for (int i = 0; i < n; i++) std::memcpy(&rows[i], from + i * from_stride, sizeof(Row));
  UNROLL for (int round = 1; round < n; round *= 2) {
    UNROLL for (int i = 0; i < n / 2; i++) {
      zipped[2 * i] = zip<0>(rows[i], rows[i + n / 2], All());
      zipped[2 * i + 1] = zip<n / 2>(rows[i], rows[i + n / 2], All());
    }
    UNROLL for (int i = 0; i < n; i++) rows[i] = zipped[i];
  }
  UNROLL for (int i = 0; i < n; i++) std::memcpy(to + i * to_stride, &rows[i], sizeof(Row));
}

// `Together` neighbours along k stand side by side, a word, and k is filled up with zeros.
template <int Together, class T>
void pack_as(Workers& w, const accelcpu_pack& o, const T* from, T* to) {
  using Word = std::conditional_t<Together == 1, T, uint32_t>;
  static_assert(sizeof(Word) == Together * sizeof(T), "a word");
  constexpr int kSquare = 16 / sizeof(Word);
  static_assert(kPanel % kSquare == 0, "squares side by side fill a panel");
  const int64_t depth = Together == 1 ? o.k : ceil_div(o.k, kPairsDepth) * kPairsDepth;
  w.each(ceil_div(o.n, kPanel), [&](int64_t p, void*) {
    const int columns = static_cast<int>(min_of<int64_t>(kPanel, o.n - p * kPanel));
    const T* src = from + p * kPanel * o.n_stride;
    T* dst = to + p * kPanel * depth;
    if (Together == 1 && o.n_stride == 1 && columns == kPanel) {
      for (int64_t k = 0; k < o.k; k++) std::memcpy(dst + k * kPanel, src + k * o.k_stride, kPanel * sizeof(T));
      return;
    }
    const auto at = [](int64_t k, int64_t j) { return (k / Together * kPanel + j) * Together + k % Together; };
    // Columns that lie along k are read a cache line at a time: element by element, a line is gone before the next of it is read.
    const int64_t run = o.k_stride == 1 ? 64 / static_cast<int64_t>(sizeof(T)) : 1;
    for (int64_t k0 = 0; k0 < depth; k0 += run) {
      const int64_t end = min_of(k0 + run, o.k), filled = min_of(k0 + run, depth);
      int done = 0;
      if (o.k_stride == 1 && end - k0 == run) {
        for (; done + kSquare <= columns; done += kSquare) {
          const char* square = reinterpret_cast<const char*>(src + done * o.n_stride + k0);
          for (int64_t k = 0; k < run; k += kSquare * Together)
            transpose_square<Word>(square + k * static_cast<int64_t>(sizeof(T)), o.n_stride * static_cast<int64_t>(sizeof(T)), reinterpret_cast<char*>(dst + at(k0 + k, done)), kPanel * static_cast<int64_t>(sizeof(Word)));
        }
      }
      for (int j = done; j < columns; j++) {
        const T* column = src + j * o.n_stride;
        for (int64_t k = k0; k < end; k++) dst[at(k, j)] = column[k * o.k_stride];
        for (int64_t k = max_of(k0, end); k < filled; k++) dst[at(k, j)] = T{};
      }
      for (int64_t k = k0; k < filled; k++) {
        for (int j = columns; j < kPanel; j++) dst[at(k, j)] = T{};
      }
    }
  });
}

void pack(Workers& w, const accelcpu_pack& o, const PackData& d) {
  switch (o.format) {
    case ACCELCPU_PACK_F32: return pack_as<1>(w, o, static_cast<const float*>(d.src), static_cast<float*>(d.dst));
    case ACCELCPU_PACK_F16: return pack_as<1>(w, o, static_cast<const uint16_t*>(d.src), static_cast<uint16_t*>(d.dst));
  }
  pack_as<2>(w, o, static_cast<const uint16_t*>(d.src), static_cast<uint16_t*>(d.dst));
}

// What is done with packed elements of a type: their depth in a panel, where they may be cut, the product with a few rows of f32, and widening.
template <class B>
struct Packed {
  static constexpr int64_t kGrain = 1;
  static INLINE int64_t depth(int64_t k) { return k; }
  template <int R, int Split>
  static INLINE void multiply(const float* a, int64_t lda, const B* b, int64_t k, float* tile) { tile_product<R, Split, kCols, Rows::kApart, B>(a, lda, b, kPanel, k, tile, false); }
  static INLINE void widen(const B* from, int64_t k, float* to) {
    for (int64_t i = 0; i < k * kPanel; i += kLanes) store(to + i, load_as_float(from + i));
  }
};

// tile_product with pairs.
template <int R, int Split>
NOINLINE void pairs_product(const float* a, int64_t lda, const Pair* b, int64_t k, float* tile) {
  constexpr int kOnce = Split > 2 ? Split / 2 : 1;  // pairs
  Vec sum[Split][R][kCols];
  UNROLL for (int s = 0; s < Split; s++)
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < kCols; j++) sum[s][i][j] = Vec{};
  // One side of the pairs after the other, each read anew, as if from another place: there are no registers for both.
  const auto side = [&](const float* x, const Pair* from, auto chain, auto of) {
    asm volatile("" : "+r"(from));
    Vec bj[kCols];
    UNROLL for (int j = 0; j < kCols; j++) bj[j] = of(load_pairs(from + j * kLanes));
    UNROLL for (int i = 0; i < R; i++) {
      const Vec ai = splat(x[i * lda]);
      UNROLL for (int j = 0; j < kCols; j++) sum[chain % Split][i][j] = fma(ai, bj[j], sum[chain % Split][i][j]);
    }
  };
  const auto first = [](IVec v) { return first_of(v); };
  const auto second = [](IVec v) { return second_of(v); };
  using Zero = std::integral_constant<int, 0>;
  using One = std::integral_constant<int, 1>;
  _Pragma("GCC unroll 2") for (; k >= 2 * kOnce; k -= 2 * kOnce, a += 2 * kOnce, b += kOnce * kPanel) {
    UNROLL for (int line = 0; line < kOnce * kPanel * 4; line += 64) __builtin_prefetch(reinterpret_cast<const char*>(b + kAhead / 2 * kPanel) + line);
    side(a, b, Zero(), first);
    side(a + 1, b, One(), second);
    if constexpr (kOnce == 2) {
      side(a + 2, b + kPanel, std::integral_constant<int, 2>(), first);
      side(a + 3, b + kPanel, std::integral_constant<int, 3>(), second);
    }
  }
  for (; k > 0; k -= 2, a += 2, b += kPanel) {
    side(a, b, Zero(), first);
    if (k > 1) side(a + 1, b, One(), second);
  }
  UNROLL for (int s = 1; s < Split; s++)
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < kCols; j++) sum[0][i][j] += sum[s][i][j];
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int j = 0; j < kCols; j++) store(tile + i * kPanel + j * kLanes, sum[0][i][j]);
}

template <>
struct Packed<BFloat> {
  static constexpr int64_t kGrain = 2;
  static INLINE int64_t depth(int64_t k) { return ceil_div(k, kPairsDepth) * kPairsDepth; }
  template <int R, int Split>
  static INLINE void multiply(const float* a, int64_t lda, const BFloat* b, int64_t k, float* tile) { pairs_product<R, Split>(a, lda, reinterpret_cast<const Pair*>(b), k, tile); }
  // For odd k a row more, of the zeros behind: there is room, as a block's depth is even.
  static INLINE void widen(const BFloat* from, int64_t k, float* to) {
    const Pair* pairs = reinterpret_cast<const Pair*>(from);
    for (int64_t i = 0; i < k; i += 2, pairs += kPanel, to += 2 * kPanel) {
      UNROLL for (int j = 0; j < kCols; j++) {
        const IVec v = load_pairs(pairs + j * kLanes);
        store(to + j * kLanes, first_of(v));
        store(to + kPanel + j * kLanes, second_of(v));
      }
    }
  }
};

template <class B>
using ThinFn = void (*)(const float*, int64_t, const B*, int64_t, float*);
template <class B, int R, int Split>
void thin_product(const float* a, int64_t lda, const B* b, int64_t k, float* tile) { Packed<B>::template multiply<R, Split>(a, lda, b, k, tile); }
template <class B, class = std::make_integer_sequence<int, kRows>>
struct ThinProducts;
template <class B, int... I>
struct ThinProducts<B, std::integer_sequence<int, I...>> {
  // For few rows the sum is split.
  static constexpr ThinFn<B> fn[] = {&thin_product<B, I + 1, I == 0 ? 4 : I == 1 ? 2 : 1>...};
};

template <class B>
void gemm_of(Workers& w, const accelcpu_gemm& o, const float* a, const void* packed, const Epilogue& e) {
  const Finish finish = kFinish[o.activation];
  const B* b = static_cast<const B*>(packed);
  constexpr bool wide = sizeof(B) == sizeof(float);
  const int64_t depth = Packed<B>::depth(o.k);
  if (o.m <= (wide ? 2 : kRows)) {
    return gemm_thin(w, o, b, kPanel * depth * static_cast<int64_t>(sizeof(B)), e, finish,
                     [&](const void* panel, float* tile) { ThinProducts<B>::fn[o.m - 1](a, o.lda, static_cast<const B*>(panel), o.k, tile); });
  }
  gemm_tiled(w, Product<float>{a, o.m, o.n, o.k, o.lda, Packed<B>::kGrain}, e, finish, multiply_floats, [&](void* scratch) {
    return [=](int64_t column, int64_t k0, int64_t k) -> const float* {
      const B* from = b + column * depth + k0 * kPanel;
      if constexpr (wide) {
        return from;
      } else {
        float* to = static_cast<float*>(scratch) + kWideAt;
        Packed<B>::widen(from, k, to);
        return to;
      }
    };
  });
}

void gemm(Workers& w, const accelcpu_gemm& given, const GemmData& d) {
  if (given.m == 0 || given.n == 0) return;
  accelcpu_gemm o = given;
  const float* a = static_cast<const float*>(d.a);
  if (o.a_type == ACCELCPU_BF16) {  // as f32: right everywhere, and no faster
    float* wide = static_cast<float*>(w.space->grow(max_of<int64_t>(o.m * o.k, 1) * 4));
    if (!wide) return w.fault.set(ACCELCPU_MEMORY, o.m, 0);
    const BFloat* from = static_cast<const BFloat*>(d.a);
    w.each(o.m, [&](int64_t i, void*) {
      int64_t k = 0;
      for (; k + kLanes <= o.k; k += kLanes) store(wide + i * o.k + k, load_as_float(from + i * o.lda + k));
      for (; k < o.k; k++) {
        const uint32_t bits = static_cast<uint32_t>(from[i * o.lda + k].bits) << 16;
        std::memcpy(wide + i * o.k + k, &bits, sizeof bits);
      }
    });
    a = wide;
    o.lda = o.k;
  }
  const Epilogue e{o.alpha, d.bias, d.residual, d.c, o.ldc, o.ldr};
  switch (o.format) {
    case ACCELCPU_PACK_F16: return gemm_of<Half>(w, o, a, d.b, e);
    case ACCELCPU_PACK_BF16: return gemm_of<BFloat>(w, o, a, d.b, e);
  }
  gemm_of<float>(w, o, a, d.b, e);
}

}  // namespace
}  // namespace accelcpu
#endif
