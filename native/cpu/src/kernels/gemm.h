// Matrix products: a register tile of kRows x kPanel, fed from panels of B.
#ifndef ACCELCPU_GEMM_H
#define ACCELCPU_GEMM_H

#include "../kernels.h"
#include "bytes.h"
#include "tile.h"

namespace accelcpu {
namespace {

// Rows of A and steps of k in one block: A's block stays in L2 while panels of B,
// which stay in L1, pass by.
constexpr int64_t kBlockM = (127 / kRows + 1) * kRows;
constexpr int64_t kBlockK = kPanel <= 16 ? 384 : 256;
constexpr int64_t kMaxGroup = 16;
constexpr int64_t kSums = (kBlockM / kRows + 1) * kMaxGroup * kTile;
// Rows of A that lie a multiple of 4 KiB apart share one set of L1, which is too small for all rows of a tall tile: such
// blocks are copied first, their rows kApart more than a block of k apart.
constexpr int64_t kSetBytes = 4096, kApart = 16;
constexpr bool kTall = kRows > 6;
static_assert((kSums + kBlockM * (kBlockK + kApart)) * 4 <= kScratchBytes, "sums and a block of A fit the scratch");

// Rows of B that are fetched ahead: B comes from L2 or beyond, and is read once for each block of A.
constexpr int kAhead = 64;

// Where a product finds A: rows lda apart, or as a panel, a[k*kPanel + i].
enum class Rows { kApart, kPanel };

// tile[i*kPanel + j] (+)= sum over k of A[i,k] * b[k*ldb + j], for R rows and the first Cols vectors of b, of type B.
// With few rows the sum is split over `Split` chains, to hide the latency of addition.
template <int R, int Split, int Cols = kCols, Rows A = Rows::kApart, class B = float>
NOINLINE void tile_product(const float* a, int64_t lda, const B* b, int64_t ldb, int64_t k, float* tile, bool add) {
  constexpr int64_t kStep = A == Rows::kPanel ? kPanel : 1;
  if constexpr (A == Rows::kPanel) lda = 1;
  // Unrolled throughout, or gcc keeps the sums in memory before and after the loop.
  Vec sum[Split][R][Cols];
  UNROLL for (int s = 0; s < Split; s++)
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < Cols; j++) sum[s][i][j] = Vec{};
  _Pragma("GCC unroll 4") for (; k >= Split; k -= Split, a += Split * kStep, b += Split * ldb) {
    UNROLL for (int s = 0; s < Split; s++) {
      UNROLL for (int line = 0; line < Cols * kLanes; line += 64 / sizeof(B)) __builtin_prefetch(b + (kAhead + s) * ldb + line);
      Vec bj[Cols];
      UNROLL for (int j = 0; j < Cols; j++) bj[j] = load_as_float(b + s * ldb + j * kLanes);
      UNROLL for (int i = 0; i < R; i++) {
        const Vec ai = splat(a[i * lda + s * kStep]);
        UNROLL for (int j = 0; j < Cols; j++) sum[s][i][j] = fma(ai, bj[j], sum[s][i][j]);
      }
    }
  }
  if constexpr (Split > 1) {
    for (; k > 0; k--, a += kStep, b += ldb) {
      UNROLL for (int j = 0; j < Cols; j++) {
        const Vec bj = load_as_float(b + j * kLanes);
        UNROLL for (int i = 0; i < R; i++) sum[0][i][j] = fma(splat(a[i * lda]), bj, sum[0][i][j]);
      }
    }
    UNROLL for (int s = 1; s < Split; s++)
      UNROLL for (int i = 0; i < R; i++)
        UNROLL for (int j = 0; j < Cols; j++) sum[0][i][j] += sum[s][i][j];
  }
  if (add) {
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < Cols; j++) sum[0][i][j] += load(tile + i * kPanel + j * kLanes);
  }
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int j = 0; j < Cols; j++) store(tile + i * kPanel + j * kLanes, sum[0][i][j]);
}

template <class B>
using TileFn = void (*)(const float*, int64_t, const B*, int64_t, int64_t, float*, bool);

template <int Cols, Rows A, class B, class>
struct TileTable;
template <int Cols, Rows A, class B, int... I>
struct TileTable<Cols, A, B, std::integer_sequence<int, I...>> {
  static constexpr TileFn<B> fn[] = {&tile_product<I + 1, 1, Cols, A, B>...};
};
// For 1 <= rows <= kRows, at [rows - 1].
template <int Cols, Rows A, class B = float>
constexpr auto& kTiles = TileTable<Cols, A, B, std::make_integer_sequence<int, kRows>>::fn;
constexpr auto& kTileProduct = kTiles<kCols, Rows::kApart>;

// A product of rows with columns that come panel by panel, cut along k at multiples of `grain`. Elements along k are words of
// 4 bytes, each a float or a pair.
template <class T>
struct Product {
  const T* a;
  int64_t m, n, k, lda, grain;
};

// The part of a product that one task computes: rows [m0, m1), columns [n0, n1), n0 at
// a panel's beginning. `sums` holds a tile for each pair of row tile and panel, and behind them a block of A.
// panel(column, k0, k) gives rows k0 to k0+k of the panel that begins at a column; multiply(rows, a, lda, b, k, tile, add) is
// tile_product of as many rows.
template <class T, class Panel, class Multiply>
INLINE void gemm_block(const Product<T>& o, const Panel& panel, const Multiply& multiply, const Epilogue& e, Finish finish, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float* sums) {
  const int64_t tiles = ceil_div(m1 - m0, kRows), grains = ceil_div(o.k, o.grain), blocks = max_of<int64_t>(1, ceil_div(grains, kBlockK / o.grain));
  const bool copied = kTall && n1 - n0 > kPanel && o.lda * 4 % kSetBytes == 0;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t k0 = part(block, grains, blocks) * o.grain, k = min_of(o.k, part(block + 1, grains, blocks) * o.grain) - k0;
    const bool last = block + 1 == blocks;
    float* sum = sums;
    const T* a = o.a + m0 * o.lda + k0;
    int64_t lda = o.lda;
    static_assert(sizeof(T) == 4, "a word");
    if (copied) {
      T* copy = reinterpret_cast<T*>(sums + kSums);
      lda = kBlockK + kApart;
      for (int64_t i = 0; i < m1 - m0; i++) std::memcpy(copy + i * lda, a + i * o.lda, static_cast<size_t>(k) * 4);
      a = copy;
    }
    for (int64_t column = n0; column < n1; column += kPanel) {
      const auto* b = panel(column, k0, k);
      for (int64_t t = 0; t < tiles; t++) {
        const int64_t row = part(t, m1 - m0, tiles);
        const int rows = static_cast<int>(part(t + 1, m1 - m0, tiles) - row);
        multiply(rows, a + row * lda, lda, b, k, sum, block > 0);
        if (last) finish(e, sum, m0 + row, rows, column, static_cast<int>(min_of<int64_t>(kPanel, n1 - column)));
        if (blocks > 1) sum += kTile;
      }
    }
  }
}

// panels(scratch) gives what gemm_block takes.
template <class T, class Multiply, class Panels>
INLINE void gemm_tiled(Workers& w, const Product<T>& o, const Epilogue& e, Finish finish, const Multiply& multiply, const Panels& panels) {
  const int64_t count = ceil_div(o.n, kPanel), row_blocks = ceil_div(o.m, kBlockM);
  // Panels that one task takes: few, so that the threads end together even if one is held up; but some
  // where A is deeper than a block, for each task reads all of it anew.
  const int64_t cells = count * row_blocks, deep = o.k > kBlockK ? min_of<int64_t>(4, cells / w.threads()) : 1;
  const int64_t group = max_of<int64_t>(1, max_of(deep, min_of<int64_t>(kMaxGroup, cells / (8 * w.threads()))));
  const int64_t groups = ceil_div(count, group);
  w.each(groups * row_blocks, [&](int64_t task, void* scratch) {
    const int64_t row = task / groups, g = task % groups;
    gemm_block(o, panels(scratch), multiply, e, finish, part(row, o.m, row_blocks), part(row + 1, o.m, row_blocks), part(g, count, groups) * kPanel,
               min_of(o.n, part(g + 1, count, groups) * kPanel), static_cast<float*>(scratch));
  });
}

// Products of rows of f32, for gemm_tiled.
INLINE void multiply_floats(int rows, const float* a, int64_t lda, const float* b, int64_t k, float* tile, bool add) {
  kTileProduct[rows - 1](a, lda, b, kPanel, k, tile, add);
}

// A few rows: no reuse of B to speak of, so that its panels are read once, front to back. A panel is so many bytes;
// product(b, tile) multiplies by one.
template <class Multiply>
INLINE void gemm_thin(Workers& w, const accelcpu_gemm& o, const void* b, int64_t panel_bytes, const Epilogue& e, Finish finish, const Multiply& product) {
  const int64_t panels = ceil_div(o.n, kPanel), group = max_of<int64_t>(1, (1 << 18) / max_of<int64_t>(panel_bytes, 1));
  w.each(ceil_div(panels, group), [&](int64_t task, void*) {
    alignas(64) float tile[kTile];
    for (int64_t p = task * group; p < min_of(panels, (task + 1) * group); p++) {
      product(static_cast<const char*>(b) + p * panel_bytes, tile);
      finish(e, tile, 0, static_cast<int>(o.m), p * kPanel, static_cast<int>(min_of<int64_t>(kPanel, o.n - p * kPanel)));
    }
  });
}

// Behind the sums and a block of A: a panel that was widened to f32.
constexpr int64_t kWideAt = kSums + kBlockM * (kBlockK + kApart);
static_assert((kWideAt + kBlockK * kPanel) * 4 <= kScratchBytes && kBlockK % 2 == 0, "and a panel too");

}  // namespace
}  // namespace accelcpu
#endif
