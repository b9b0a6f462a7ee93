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

template <class T>
void pack_as(Workers& w, const accelcpu_pack& o, const T* from, T* to) {
  w.each(ceil_div(o.n, kPanel), [&](int64_t p, void*) {
    const int columns = static_cast<int>(min_of<int64_t>(kPanel, o.n - p * kPanel));
    const T* src = from + p * kPanel * o.n_stride;
    T* dst = to + p * kPanel * o.k;
    // Columns that lie along k are read a cache line at a time: element by element, a line is gone before the next of it is read.
    const int64_t run = o.k_stride == 1 ? 64 / static_cast<int64_t>(sizeof(T)) : 1;
    for (int64_t k0 = 0; k0 < o.k; k0 += run, dst += run * kPanel) {
      const int64_t n = min_of(run, o.k - k0);
      for (int j = 0; j < columns; j++) {
        const T* column = src + j * o.n_stride + k0 * o.k_stride;
        for (int64_t k = 0; k < n; k++) dst[k * kPanel + j] = column[k * o.k_stride];
      }
      for (int64_t k = 0; k < n; k++) {
        for (int j = columns; j < kPanel; j++) dst[k * kPanel + j] = T{};
      }
    }
  });
}

void pack(Workers& w, const accelcpu_pack& o, const PackData& d) {
  if (o.format == ACCELCPU_PACK_F32) return pack_as(w, o, static_cast<const float*>(d.src), static_cast<float*>(d.dst));
  pack_as(w, o, static_cast<const uint16_t*>(d.src), static_cast<uint16_t*>(d.dst));
}

// A product of f32 rows with columns that come panel by panel, cut along k at multiples of `grain`.
struct Product {
  const float* a;
  int64_t m, n, k, lda, grain;
};

// The part of a product that one task computes: rows [m0, m1), columns [n0, n1), n0 at
// a panel's beginning. `sums` holds a tile for each pair of row tile and panel, and behind them a block of A.
// panel(column, k0, k) gives rows k0 to k0+k of the panel that begins at a column.
template <class Panel>
INLINE void gemm_block(const Product& o, const Panel& panel, const Epilogue& e, Finish finish, int64_t m0, int64_t m1, int64_t n0, int64_t n1, float* sums) {
  const int64_t tiles = ceil_div(m1 - m0, kRows), grains = ceil_div(o.k, o.grain), blocks = max_of<int64_t>(1, ceil_div(grains, kBlockK / o.grain));
  const bool copied = kTall && n1 - n0 > kPanel && o.lda * 4 % kSetBytes == 0;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t k0 = part(block, grains, blocks) * o.grain, k = min_of(o.k, part(block + 1, grains, blocks) * o.grain) - k0;
    const bool last = block + 1 == blocks;
    float* sum = sums;
    const float* a = o.a + m0 * o.lda + k0;
    int64_t lda = o.lda;
    if (copied) {
      float* copy = sums + kSums;
      lda = kBlockK + kApart;
      for (int64_t i = 0; i < m1 - m0; i++) std::memcpy(copy + i * lda, a + i * o.lda, static_cast<size_t>(k) * 4);
      a = copy;
    }
    for (int64_t column = n0; column < n1; column += kPanel) {
      const float* b = panel(column, k0, k);
      for (int64_t t = 0; t < tiles; t++) {
        const int64_t row = part(t, m1 - m0, tiles);
        const int rows = static_cast<int>(part(t + 1, m1 - m0, tiles) - row);
        kTileProduct[rows - 1](a + row * lda, lda, b, kPanel, k, sum, block > 0);
        if (last) finish(e, sum, m0 + row, rows, column, static_cast<int>(min_of<int64_t>(kPanel, n1 - column)));
        if (blocks > 1) sum += kTile;
      }
    }
  }
}

// panels(scratch) gives what gemm_block takes.
template <class Panels>
INLINE void gemm_tiled(Workers& w, const Product& o, const Epilogue& e, Finish finish, const Panels& panels) {
  const int64_t count = ceil_div(o.n, kPanel), row_blocks = ceil_div(o.m, kBlockM);
  // Panels that one task takes: few, so that the threads end together even if one is held up; but some
  // where A is deeper than a block, for each task reads all of it anew.
  const int64_t cells = count * row_blocks, deep = o.k > kBlockK ? min_of<int64_t>(4, cells / w.threads()) : 1;
  const int64_t group = max_of<int64_t>(1, max_of(deep, min_of<int64_t>(kMaxGroup, cells / (8 * w.threads()))));
  const int64_t groups = ceil_div(count, group);
  w.each(groups * row_blocks, [&](int64_t task, void* scratch) {
    const int64_t row = task / groups, g = task % groups;
    gemm_block(o, panels(scratch), e, finish, part(row, o.m, row_blocks), part(row + 1, o.m, row_blocks), part(g, count, groups) * kPanel,
               min_of(o.n, part(g + 1, count, groups) * kPanel), static_cast<float*>(scratch));
  });
}

// A few rows: no reuse of B to speak of, so that its panels are read once, front to back.
template <class B>
void gemm_thin(Workers& w, const accelcpu_gemm& o, const GemmData& d, const Epilogue& e, Finish finish, int rows, TileFn<B> product) {
  const int64_t panels = ceil_div(o.n, kPanel), group = max_of<int64_t>(1, (1 << 18) / static_cast<int64_t>(sizeof(B)) / (kPanel * max_of<int64_t>(o.k, 1)));
  w.each(ceil_div(panels, group), [&](int64_t task, void*) {
    alignas(64) float tile[kTile];
    for (int64_t p = task * group; p < min_of(panels, (task + 1) * group); p++) {
      product(d.a, o.lda, static_cast<const B*>(d.b) + p * kPanel * o.k, kPanel, o.k, tile, false);
      finish(e, tile, 0, rows, p * kPanel, static_cast<int>(min_of<int64_t>(kPanel, o.n - p * kPanel)));
    }
  });
}

// Behind the sums and a block of A: a panel that was widened to f32.
constexpr int64_t kWideAt = kSums + kBlockM * (kBlockK + kApart);
static_assert((kWideAt + kBlockK * kPanel) * 4 <= kScratchBytes, "and a panel too");

template <class B>
void gemm_of(Workers& w, const accelcpu_gemm& o, const GemmData& d) {
  const Epilogue e{o.alpha, d.bias, d.residual, d.c, o.ldc, o.ldr};
  const Finish finish = kFinish[o.activation];
  const B* b = static_cast<const B*>(d.b);
  constexpr bool wide = sizeof(B) == sizeof(float);
  switch (o.m) {
    case 1: return gemm_thin<B>(w, o, d, e, finish, 1, tile_product<1, 4, kCols, Rows::kApart, B>);
    case 2: return gemm_thin<B>(w, o, d, e, finish, 2, tile_product<2, 2, kCols, Rows::kApart, B>);
  }
  if (!wide && o.m <= kRows) return gemm_thin<B>(w, o, d, e, finish, static_cast<int>(o.m), kTiles<kCols, Rows::kApart, B>[o.m - 1]);
  gemm_tiled(w, {d.a, o.m, o.n, o.k, o.lda, 1}, e, finish, [&](void* scratch) {
    return [=, &o](int64_t column, int64_t k0, int64_t k) -> const float* {
      const B* from = b + column * o.k + k0 * kPanel;
      if constexpr (wide) {
        return from;
      } else {
        float* to = static_cast<float*>(scratch) + kWideAt;
        for (int64_t i = 0; i < k * kPanel; i += kLanes) store(to + i, load_as_float(from + i));
        return to;
      }
    };
  });
}

void gemm(Workers& w, const accelcpu_gemm& o, const GemmData& d) {
  if (o.m == 0 || o.n == 0) return;
  switch (o.format) {
    case ACCELCPU_PACK_F16: return gemm_of<Half>(w, o, d);
    case ACCELCPU_PACK_BF16: return gemm_of<BFloat>(w, o, d);
  }
  gemm_of<float>(w, o, d);
}

}  // namespace
}  // namespace accelcpu
#endif
