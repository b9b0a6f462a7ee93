// Attention without writing the scores out: blocks of keys pass by a block of queries, whose running
// maximum and sum make the softmax come out right at the end (Milakov & Gimelshein 2018, "Online
// normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention").
#ifndef ACCELCPU_ATTENTION_H
#define ACCELCPU_ATTENTION_H

#include "matmul.h"

namespace accelcpu {
namespace {

constexpr int64_t kKeys = 128;      // keys in a block; a whole number of panels
constexpr int64_t kQueryTiles = 4;  // row tiles that share a panel of keys while it is in L1
static_assert(kKeys % kPanel == 0, "blocks of keys are cut into panels");

// The sizes that depend on the head's width, which is at most 1024 (checked before).
struct AttentionBlocks {
  int64_t queries, keys, v_panels;
  explicit AttentionBlocks(const accelcpu_attention& o)
      : queries(max_of(o.head_dim, o.v_dim) <= 256 ? kBlockM : kQueryTiles * kRows),
        keys(max_of(o.head_dim, o.v_dim) <= 256 ? kKeys : kPanel),
        v_panels(ceil_div(o.v_dim, kPanel)) {}
};

// What attention() lays out in its scratch, at the widest: see there.
constexpr int64_t attention_floats(int64_t queries, int64_t keys, int64_t width) {
  return queries * width + 2 * keys * width + kQueryTiles * kRows * 2 * kKeys + kKeys + 2 * queries;
}
static_assert(attention_floats(kBlockM, kKeys, 256) * 4 <= kScratchBytes && attention_floats(kQueryTiles * kRows, kPanel, 1024) * 4 <= kScratchBytes, "scratch");

// Whether query i of the batch's sequence may see keys [first, end), before any mask.
struct Sight {
  int64_t first, end;
  Sight(const accelcpu_attention& o, int64_t length, int64_t i)
      : first(o.window > 0 ? max_of<int64_t>(0, i + o.offset - o.window + 1) : 0),
        end(o.causal ? min_of(length, i + o.offset + 1) : length) {}
};

// out[j] = what the mask adds to the score of key j0 + j, j < n.
INLINE void mask_row(const accelcpu_attention& o, const AttentionData& d, int64_t at, int64_t j0, int64_t n, float* out) {
  at += j0 * o.mask_stride[3];
  if (o.mask_kind == ACCELCPU_MASK_ADD) {
    const float* m = static_cast<const float*>(d.mask) + at;
    for (int64_t j = 0; j < n; j++) out[j] = m[j * o.mask_stride[3]];
  } else {
    const uint8_t* m = static_cast<const uint8_t*>(d.mask) + at;
    for (int64_t j = 0; j < n; j++) out[j] = m[j * o.mask_stride[3]] ? 0.0f : -INFINITY;
  }
}

// Whether the mask lets a query see nothing at all in [first, end).
INLINE bool blind(const accelcpu_attention& o, const AttentionData& d, int64_t at, int64_t first, int64_t end) {
  if (o.mask_kind == ACCELCPU_MASK_NONE) return first >= end;
  for (int64_t j = first; j < end; j++) {
    float m;
    mask_row(o, d, at, j, 1, &m);
    if (m != -INFINITY) return false;
  }
  return true;
}

// The softmax of one row over a block of keys, given the maximum before it.
struct RowBlock {
  const float* products;  // q k^T: a panel's row every `step` floats
  int64_t step, keys;     // whole panels
  const float* mask;      // null: none
  float* weights;
};

// weights = softcap(scale * products) + mask; returns the greatest.
template <bool Masked, bool Capped>
NOINLINE Vec score_row(const RowBlock& b, float scale, float softcap) {
  Vec high = splat(-INFINITY);
  for (int64_t j = 0; j < b.keys; j += kPanel) {
    const float* from = b.products + j / kPanel * b.step;
    UNROLL for (int c = 0; c < kCols; c++) {
      Vec x = load(from + c * kLanes) * scale;
      if (Capped) x = tanh(x / softcap) * softcap;
      if (Masked) x += load(b.mask + j + c * kLanes);
      store(b.weights + j + c * kLanes, x);
      high = max(high, x);
    }
  }
  return high;
}

// weights = e^(weights - top); returns their sum.
NOINLINE Vec weigh_row(const RowBlock& b, float top) {
  Vec total = {};
  for (int64_t j = 0; j < b.keys; j += kLanes) {
    const Vec e = exp_nonpositive(load(b.weights + j) - top);
    store(b.weights + j, e);
    total += e;
  }
  return total;
}

void attention(Workers& w, const accelcpu_attention& o, const AttentionData& d) {
  const AttentionBlocks size(o);
  const int64_t heads = o.batch * o.heads;
  if (heads == 0 || o.q_len == 0 || o.v_dim == 0) return;
  int64_t query_blocks = ceil_div(o.q_len, size.queries);
  while (heads * query_blocks < 2 * w.threads() && query_blocks * kQueryTiles * kRows < o.q_len) query_blocks *= 2;

  w.each(heads * query_blocks, [&](int64_t task, void* scratch) {
    const int64_t head = task / query_blocks, b = head / o.heads, h = head % o.heads, kv_h = h / (o.heads / o.kv_heads);
    const int64_t q0 = part(task % query_blocks, o.q_len, query_blocks), q1 = part(task % query_blocks + 1, o.q_len, query_blocks);
    const int64_t tiles = ceil_div(q1 - q0, kRows);
    const int64_t length = d.lengths ? max_of<int64_t>(0, min_of(o.kv_len, d.lengths[b])) : o.kv_len;
    const float* q = d.q + b * o.q_stride[0] + h * o.q_stride[2];
    const float* k = d.k + b * o.k_stride[0] + kv_h * o.k_stride[2];
    const float* v = d.v + b * o.v_stride[0] + kv_h * o.v_stride[2];
    const int64_t mask_head = b * o.mask_stride[0] + h * o.mask_stride[1];
    const bool masked = o.mask_kind != ACCELCPU_MASK_NONE, shared_mask = masked && o.mask_stride[2] == 0;

    float* out = static_cast<float*>(scratch);                    // [tile][v panel] of kTile
    float* keys = out + size.queries / kRows * size.v_panels * kTile;  // [panel][head_dim][kPanel]
    float* values = keys + size.keys * o.head_dim;                // [v panel][key][kPanel]
    float* scores = values + size.keys * size.v_panels * kPanel;  // [tile][panel] of kTile
    float* weights = scores + kQueryTiles * kKeys / kPanel * kTile;    // [row][key]
    float* mask = weights + kQueryTiles * kRows * kKeys;
    float* top = mask + kKeys;                                    // a row's running maximum,
    float* total = top + size.queries;                            // and the sum of its weights
    for (int64_t i = 0; i < q1 - q0; i++) {
      top[i] = -INFINITY;
      total[i] = 0.0f;
    }
    std::memset(out, 0, static_cast<size_t>(tiles * size.v_panels * kTile) * 4);

    const int64_t first = Sight(o, length, q0).first, end = Sight(o, length, q1 - 1).end;
    for (int64_t j0 = first; j0 < end; j0 += size.keys) {
      const int64_t n = min_of(size.keys, end - j0), padded = ceil_div(n, kPanel) * kPanel;
      pack_panels(k + j0 * o.k_stride[1], 1, o.k_stride[1], o.head_dim, n, keys);
      pack_panels(v + j0 * o.v_stride[1], o.v_stride[1], 1, n, o.v_dim, values);
      if (shared_mask) mask_row(o, d, mask_head, j0, n, mask);
      for (int64_t t0 = 0; t0 < tiles; t0 += kQueryTiles) {
        const int64_t t1 = min_of(tiles, t0 + kQueryTiles);
        for (int64_t p = 0; p < padded / kPanel; p++) {
          for (int64_t t = t0; t < t1; t++) {
            const int64_t row = part(t, q1 - q0, tiles);
            kTileProduct[part(t + 1, q1 - q0, tiles) - row - 1](q + (q0 + row) * o.q_stride[1], o.q_stride[1], keys + p * o.head_dim * kPanel, kPanel, o.head_dim,
                                                                 scores + ((t - t0) * padded / kPanel + p) * kTile, false);
          }
        }
        for (int64_t t = t0; t < t1; t++) {
          const int64_t row0 = part(t, q1 - q0, tiles), row1 = part(t + 1, q1 - q0, tiles);
          for (int64_t row = row0; row < row1; row++) {
            const int64_t q_row = q0 + row;
            const Sight sight(o, length, q_row);
            if (masked && !shared_mask) mask_row(o, d, mask_head + q_row * o.mask_stride[2], j0, n, mask);
            const RowBlock block{scores + (t - t0) * padded / kPanel * kTile + (row - row0) * kPanel, kTile, padded, mask, weights + ((t - t0) * kRows + row - row0) * kKeys};
            Vec high = o.softcap > 0 ? (masked ? score_row<true, true>(block, o.scale, o.softcap) : score_row<false, true>(block, o.scale, o.softcap))
                                     : (masked ? score_row<true, false>(block, o.scale, 0) : score_row<false, false>(block, o.scale, 0));
            const int64_t low = max_of<int64_t>(0, sight.first - j0), end_of_row = min_of(padded, sight.end - j0);
            if (low > 0 || end_of_row < padded) {
              for (int64_t j = 0; j < min_of(low, padded); j++) block.weights[j] = -INFINITY;
              for (int64_t j = max_of<int64_t>(0, end_of_row); j < padded; j++) block.weights[j] = -INFINITY;
              high = splat(-INFINITY);
              for (int64_t j = 0; j < padded; j += kLanes) high = max(high, load(block.weights + j));
            }
            const float before = top[row], now = max_of(before, greatest(high));
            const float all = sum(weigh_row(block, now == -INFINITY ? 0.0f : now));
            const float shrink = now == before ? 1.0f : before == -INFINITY ? 0.0f : std::exp(before - now);
            top[row] = now;
            total[row] = total[row] * shrink + all;
            if (shrink != 1.0f && j0 > first) {
              for (int64_t vp = 0; vp < size.v_panels; vp++) {
                float* o_row = out + (t * size.v_panels + vp) * kTile + (row - row0) * kPanel;
                for (int j = 0; j < kCols; j++) store(o_row + j * kLanes, load(o_row + j * kLanes) * shrink);
              }
            }
          }
        }
        for (int64_t vp = 0; vp < size.v_panels; vp++) {
          for (int64_t t = t0; t < t1; t++) {
            const int64_t rows = part(t + 1, q1 - q0, tiles) - part(t, q1 - q0, tiles);
            kTileProduct[rows - 1](weights + (t - t0) * kRows * kKeys, kKeys, values + vp * n * kPanel, kPanel, n, out + (t * size.v_panels + vp) * kTile, true);
          }
        }
      }
    }
    for (int64_t t = 0; t < tiles; t++) {
      const int64_t row0 = part(t, q1 - q0, tiles), row1 = part(t + 1, q1 - q0, tiles);
      for (int64_t row = row0; row < row1; row++) {
        float* y = d.o + b * o.o_stride[0] + (q0 + row) * o.o_stride[1] + h * o.o_stride[2];
        const Sight sight(o, length, q0 + row);
        // No weight at all, or a score that is not a number where none was wanted.
        const bool nothing = total[row] == 0.0f || (total[row] != total[row] && blind(o, d, mask_head + (q0 + row) * o.mask_stride[2], sight.first, sight.end));
        const float factor = nothing ? 0.0f : 1.0f / total[row];
        along(o.v_dim, [&](int64_t j, int n) {
          const Vec x = load(out + (t * size.v_panels + j / kPanel) * kTile + (row - row0) * kPanel + j % kPanel);
          store_up_to(y + j, nothing ? Vec{} : x * factor, n);
        });
      }
    }
  });
}

}  // namespace
}  // namespace accelcpu
#endif
