// Products of rows of f32 with weights in blocks.
#ifndef ACCELCPU_BLOCKS_F32_H
#define ACCELCPU_BLOCKS_F32_H

#include "blocks.h"
#include "gemm.h"

namespace accelcpu {
namespace {

// Rows of f32, and the sum of each of their blocks, [rows, blocks].
struct FloatRows {
  const float *a, *sums;
  int64_t lda;
};

// tile[i*kPanel + j] = sum over k of A[i,k] * w[k,j] for R rows and a panel of weights, k in whole units.
template <int Bits, int R>
NOINLINE void float_product(const FloatRows& rows, const BlocksPanel& w, float* tile) {
  constexpr int kChains = R == 1 ? 4 : 2;
  const BlocksLayout& l = *w.layout;
  const uint8_t* codes = w.codes;
  const float* a = rows.a;
  // Codes less half their range, which have a sign: smaller numbers, and less to be taken off their sum.
  constexpr int kMiddle = 1 << (Bits - 1);
  const ByteVec middle = ByteVec{} + static_cast<uint8_t>(kMiddle);
  Vec total[R][2];
  UNROLL for (int r = 0; r < R; r++) total[r][0] = total[r][1] = Vec{};
  for (int64_t block = 0, unit = 0; block < l.blocks; block++) {
    Vec sum[kChains][R][2];
    UNROLL for (int c = 0; c < kChains; c++)
      UNROLL for (int r = 0; r < R; r++) sum[c][r][0] = sum[c][r][1] = Vec{};
    const int64_t end = min_of(l.units, unit + l.block / l.unit), chunks = (end - unit) * l.unit / kChunk;
    for (int64_t chunk = 0; chunk < chunks; chunk++, codes += Bits * kVecBytes, a += kChunk) {
      each_step([&](auto step) {
        IVec v[2];
        read_codes<Bits, step>(codes, v[0], v[1]);
        UNROLL for (int half = 0; half < 2; half++) {
          v[half] = (IVec)((ByteVec)v[half] - middle);
          UNROLL for (int j = 0; j < 4; j++) {
            const Vec f = to_float((v[half] << (24 - 8 * j)) >> 24);
            UNROLL for (int r = 0; r < R; r++) {
              Vec& s = sum[j % kChains][r][half];
              s = fma(splat(a[r * rows.lda + 4 * step + j]), f, s);
            }
          }
        }
      });
    }
    unit = end;
    UNROLL for (int half = 0; half < 2; half++) {
      const Vec scale = w.scale(block, half), offset = w.offset(block, half, scale, kMiddle);
      UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int c = 1; c < kChains; c++) sum[0][r][half] += sum[c][r][half];
        Vec& t = total[r][half];
        t = fma(splat(rows.sums[r * l.blocks + block]), offset, fma(sum[0][r][half], scale, t));
      }
    }
  }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int half = 0; half < 2; half++) store(tile + r * kPanel + half * kLanes, total[r][half]);
}

// to[i*kPanel + j] = w[k0+i, j] for i < k and a panel of weights, k0 at the beginning of a unit. What is behind k in the last
// chunk is written too: a block of A, and so `to`, has whole chunks.
template <int Bits>
NOINLINE void widen(const BlocksPanel& w, int64_t k0, int64_t k, float* to) {
  const BlocksLayout& l = *w.layout;
  const uint8_t* codes = w.codes + k0 / kChunk * Bits * kVecBytes;
  const float bias = l.offset_bytes == 0 ? l.middle : 0;
  for (int64_t i = 0; i < k; i += kChunk, codes += Bits * kVecBytes) {
    const int64_t block = (k0 + i) / l.block;
    Vec scale[2], offset[2];
    UNROLL for (int half = 0; half < 2; half++) {
      scale[half] = w.scale(block, half);
      offset[half] = w.offset(block, half, scale[half], bias);
    }
    each_step([&](auto step) {
      IVec v[2];
      read_codes<Bits, step>(codes, v[0], v[1]);
      UNROLL for (int half = 0; half < 2; half++) {
        UNROLL for (int j = 0; j < 4; j++) {
          const Vec f = to_float((v[half] >> 8 * j) & 255) - bias;
          store(to + (i + 4 * step + j) * kPanel + half * kLanes, fma(f, scale[half], offset[half]));
        }
      }
    });
  }
}

constexpr int kFloatRows = 2;

struct FloatProducts {
  void (*product[kFloatRows])(const FloatRows&, const BlocksPanel&, float*);
  void (*widen)(const BlocksPanel&, int64_t, int64_t, float*);
};
template <int Bits>
struct FloatProductsOf {
  static constexpr FloatProducts table = {{&float_product<Bits, 1>, &float_product<Bits, 2>}, &widen<Bits>};
};

void gemm_blocks(Workers& w, const accelcpu_gemm_blocks& o, const GemmBlocksData& d) {
  if (o.m == 0 || o.n == 0) return;
  const Epilogue e{1.0f, d.bias, d.residual, d.c, o.ldc, o.ldr};
  const Finish finish = kFinish[o.activation];
  const BlocksLayout l = blocks_layout(kLanes, o.k, o.weight);
  const FloatProducts& k = by_bits<FloatProducts, FloatProductsOf>(o.weight.bits);
  const float* a = static_cast<const float*>(d.a);
  const int64_t depth = l.units * l.unit, room = kScratchBytes / 4;
  if (o.m <= kFloatRows && o.m * (depth + l.blocks) <= room) {
    // Rows filled up to whole units, and the sums of their blocks, in the caller's scratch, which the tasks leave alone.
    float* sums = static_cast<float*>(w.scratch);
    float* filled = sums + o.m * l.blocks;
    const FloatRows rows = depth == o.k ? FloatRows{a, sums, o.lda} : FloatRows{filled, sums, depth};
    for (int64_t i = 0; i < o.m; i++) {
      const float* row = a + i * o.lda;
      for (int64_t block = 0; block < l.blocks; block++) {
        const int64_t k0 = block * l.block;
        Vec s{};
        along(min_of(l.block, o.k - k0), [&](int64_t j, int n) { s += load_up_to(row + k0 + j, n); });
        sums[i * l.blocks + block] = sum(s);
      }
      if (depth != o.k) {
        std::memcpy(filled + i * depth, row, static_cast<size_t>(o.k) * 4);
        std::memset(filled + i * depth + o.k, 0, static_cast<size_t>(depth - o.k) * 4);
      }
    }
    const int64_t panels = ceil_div(o.n, kBlocksPanel), group = max_of<int64_t>(1, kTaskBytes / l.panel_bytes());
    w.each(ceil_div(panels, group), [&](int64_t task, void*) {
      alignas(64) float tile[kFloatRows * kPanel];
      for (int64_t p = task * group; p < min_of(panels, (task + 1) * group); p++) {
        k.product[o.m - 1](rows, BlocksPanel(l, d.b, p), tile);
        finish(e, tile, 0, static_cast<int>(o.m), p * kBlocksPanel, static_cast<int>(min_of<int64_t>(kBlocksPanel, o.n - p * kBlocksPanel)));
      }
    });
    return;
  }
  gemm_tiled(w, Product<float>{a, o.m, o.n, o.k, o.lda, l.unit}, e, finish, multiply_floats, [&](void* scratch) {
    return [&, scratch](int64_t column, int64_t k0, int64_t depth) -> const float* {
      float* to = static_cast<float*>(scratch) + kWideAt;
      for (int64_t p = 0; p < kPanel / kBlocksPanel; p++) k.widen(BlocksPanel(l, d.b, column / kBlocksPanel + p), k0, depth, to + p * kBlocksPanel);
      return to;
    };
  });
}

}  // namespace
}  // namespace accelcpu
#endif
