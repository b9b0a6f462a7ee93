// Products of matrices that nobody packed before.
#ifndef ACCELCPU_MATMUL_H
#define ACCELCPU_MATMUL_H

#include "gemm.h"

namespace accelcpu {
namespace {

// dst[p][i][j] = src[i*row + (p*kPanel+j)*column]: rows x columns of B as panels, the
// last one filled up with zeros.
INLINE void pack_panels(const float* src, int64_t row, int64_t column, int64_t rows, int64_t columns, float* dst) {
  for (int64_t j0 = 0; j0 < columns; j0 += kPanel, dst += rows * kPanel) {
    const int64_t width = min_of<int64_t>(kPanel, columns - j0);
    const float* s = src + j0 * column;
    if (column == 1 && width == kPanel) {
      for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < kCols; j++) store(dst + i * kPanel + j * kLanes, load(s + i * row + j * kLanes));
      continue;
    }
    // A few rows at a time: their lines of dst stay in L1 while the columns are read along.
    for (int64_t i0 = 0; i0 < rows; i0 += 16) {
      const int64_t i1 = min_of(rows, i0 + 16);
      for (int64_t j = 0; j < width; j++)
        for (int64_t i = i0; i < i1; i++) dst[i * kPanel + j] = s[i * row + j * column];
      for (int64_t j = width; j < kPanel; j++)
        for (int64_t i = i0; i < i1; i++) dst[i * kPanel + j] = 0.0f;
    }
  }
}

// out[j] = a . b[j], for dense vectors of length k, b's lie ldb apart.
INLINE void dots(const float* a, const float* b, int64_t ldb, int64_t n, int64_t k, float* out) {
  constexpr int R = 4;
  for (int64_t j = 0; j < n; j += R) {
    const int rows = static_cast<int>(min_of<int64_t>(R, n - j));
    const float* row[R];
    for (int r = 0; r < R; r++) row[r] = b + (j + min_of(r, rows - 1)) * ldb;
    Vec acc[R] = {};
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) {
      const Vec x = load(a + i);
      for (int r = 0; r < R; r++) acc[r] = fma(x, load(row[r] + i), acc[r]);
    }
    if (i < k) {
      const int rest = static_cast<int>(k - i);
      const Vec x = load_n(a + i, rest);
      for (int r = 0; r < R; r++) acc[r] = fma(x, load_n(row[r] + i, rest), acc[r]);
    }
    for (int r = 0; r < rows; r++) out[j + r] = sum(acc[r]);
  }
}

constexpr int64_t kMatMulPanels = 8;  // of one task
constexpr int64_t kDotRows = 3;       // up to so many rows of A, B is not worth transposing

void matmul(Workers& w, const accelcpu_matmul& o, const MatMulData& d) {
  int64_t batches = 1;
  for (uint32_t i = 0; i < o.rank; i++) batches *= o.batch[i];
  if (batches == 0 || o.m == 0 || o.n == 0) return;
  const int64_t panels = ceil_div(o.n, kPanel), row_blocks = ceil_div(o.m, kBlockM);
  int64_t groups = ceil_div(panels, kMatMulPanels);
  while (groups < panels && batches * row_blocks * groups < 2 * w.threads()) groups = min_of(panels, 2 * groups);
  const Finish finish = kFinish[o.activation];
  const bool by_dots = o.b_row == 1 && o.a_col == 1 && o.m <= kDotRows;

  w.each(batches * row_blocks * groups, [&](int64_t task, void* scratch) {
    const int64_t group = task % groups, row_block = task / groups % row_blocks;
    const float *a = d.a, *b = d.b;
    float* c = d.c;
    for (int64_t i = int64_t{o.rank} - 1, rest = task / groups / row_blocks; i >= 0; rest /= o.batch[i--]) {
      const int64_t at = rest % o.batch[i];
      a += at * o.a_batch[i];
      b += at * o.b_batch[i];
      c += at * o.c_batch[i];
    }
    const int64_t m0 = part(row_block, o.m, row_blocks), m1 = part(row_block + 1, o.m, row_blocks);
    const int64_t n0 = part(group, panels, groups) * kPanel, n1 = min_of(o.n, part(group + 1, panels, groups) * kPanel);
    const Epilogue e{o.alpha, d.bias, nullptr, c, o.c_row, 0};
    float* sums = static_cast<float*>(scratch);

    if (by_dots) {
      for (int64_t i = m0; i < m1; i++) {
        for (int64_t j = n0; j < n1; j += kPanel) {
          const int columns = static_cast<int>(min_of<int64_t>(kPanel, n1 - j));
          dots(a + i * o.a_row, b + j * o.b_col, o.b_col, columns, o.k, sums);
          finish(e, sums, i, 1, j, columns);
        }
      }
      return;
    }
    const int64_t tiles = ceil_div(m1 - m0, kRows), blocks = max_of<int64_t>(1, ceil_div(o.k, kBlockK));
    // One pass over B needs no copy of it, where its rows are dense and fill the panel.
    const bool direct = o.b_col == 1 && tiles == 1;
    float* packed_b = sums + (kBlockM / kRows + 1) * kMatMulPanels * kTile;
    float* packed_a = packed_b + kPanel * kBlockK;
    static_assert(((kBlockM / kRows + 1) * kMatMulPanels * kTile + kPanel * kBlockK + kBlockM * kBlockK) * 4 <= kScratchBytes, "scratch");
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t k0 = part(block, o.k, blocks), k = part(block + 1, o.k, blocks) - k0;
      const bool last = block + 1 == blocks;
      const float* ak = a + m0 * o.a_row + k0 * o.a_col;
      int64_t lda = o.a_row;
      if (o.a_col != 1) {
        for (int64_t j = 0; j < k; j++)
          for (int64_t i = 0; i < m1 - m0; i++) packed_a[i * k + j] = ak[i * o.a_row + j * o.a_col];
        ak = packed_a;
        lda = k;
      }
      float* sum = sums;
      for (int64_t column = n0; column < n1; column += kPanel) {
        const int columns = static_cast<int>(min_of<int64_t>(kPanel, n1 - column));
        const float* bk = b + k0 * o.b_row + column * o.b_col;
        int64_t ldb = o.b_row;
        if (!direct || columns < kPanel) {
          pack_panels(bk, o.b_row, o.b_col, k, columns, packed_b);
          bk = packed_b;
          ldb = kPanel;
        }
        for (int64_t t = 0; t < tiles; t++) {
          const int64_t row = part(t, m1 - m0, tiles);
          const int rows = static_cast<int>(part(t + 1, m1 - m0, tiles) - row);
          kTileProduct[rows - 1](ak + row * lda, lda, bk, ldb, k, sum, block > 0);
          if (last) finish(e, sum, m0 + row, rows, column, columns);
          if (blocks > 1) sum += kTile;
        }
      }
    }
  });
}

}  // namespace
}  // namespace accelcpu
#endif
