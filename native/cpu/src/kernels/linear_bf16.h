// Products of rows of bf16 with packed weights of bf16, on instructions that multiply pairs and add up in f32.
#ifndef ACCELCPU_LINEAR_BF16_H
#define ACCELCPU_LINEAR_BF16_H

#include "gemm.h"
#if defined(VEC_TILES)
#include "tiles.h"
#endif

namespace accelcpu {
namespace {

#if defined(VEC_TILES)

// tile[i*kPanel + j] (+)= sum over k of A[i,k] * b[k,j] for up to kTilesRows rows and a panel, k in whole depths of a tile. With
// `Ahead` b is asked for before its turn: it comes from memory.
template <bool Ahead>
NOINLINE void pairs_product(int rows, const Pair* a, int64_t lda, const Pair* b, int64_t k, float* tile, bool add) {
  static_assert(kLanes == kTileRows && kRows == kTilesRows && kPairsDepth == 2 * kTileRows, "a half of a panel is a tile wide");
  constexpr int64_t kStride = kPanel * 4;
  const TileShapes shapes = tile_shapes<kTileRows>(rows);
  const int first = rows > kTileRows ? (rows + 1) / 2 : rows;
  float* const below = tile + first * kPanel;
  Tiles t(shapes);
  if (add) {
    t.load<0>(tile, kStride);
    t.load<1>(tile + kLanes, kStride);
  } else {
    t.zero<0>();
    t.zero<1>();
  }
  if (rows > kTileRows && add) {
    t.load<2>(below, kStride);
    t.load<3>(below + kLanes, kStride);
  } else if (rows > kTileRows) {
    t.zero<2>();
    t.zero<3>();
  }
  for (; k > 0; k -= kTileRows, a += kTileRows, b += kTileRows * kPanel) {
    if constexpr (Ahead) {
      for (int line = 0; line < kTileRows * kPanel * 4; line += 64) __builtin_prefetch(reinterpret_cast<const char*>(b + kAhead * kPanel) + line);
    }
    t.load<6>(b, kStride);
    t.load<4>(a, lda * 4);
    t.dot<0, 4, 6>();
    t.load<7>(b + kLanes, kStride);
    t.dot<1, 4, 7>();
    if (rows > kTileRows) {
      t.load<5>(a + first * lda, lda * 4);
      t.dot<2, 5, 6>();
      t.dot<3, 5, 7>();
    }
  }
  t.store<0>(tile, kStride);
  t.store<1>(tile + kLanes, kStride);
  if (rows > kTileRows) {
    t.store<2>(below, kStride);
    t.store<3>(below + kLanes, kStride);
  }
  t.release();
}

#else

// sum + first * first + second * second of pairs; numbers below 2^-126 count as zero.
INLINE Vec dot(Vec sum, IVec a, IVec b) {
#if defined(VEC_BF16)
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
  return fma(first_of(a), first_of(b), fma(second_of(a), second_of(b), sum));
#endif
}
INLINE IVec splat_pair(const Pair* p) { return splat_bytes(reinterpret_cast<const int8_t*>(p)); }

// The same for R rows, the sum in `Split` chains; k counts pairs and is a multiple of Split.
template <int R, int Split>
NOINLINE void pairs_product_of(const Pair* a, int64_t lda, const Pair* b, int64_t k, float* tile, bool add) {
  Vec sum[Split][R][kCols];
  UNROLL for (int s = 0; s < Split; s++)
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < kCols; j++) sum[s][i][j] = Vec{};
  _Pragma("GCC unroll 4") for (; k > 0; k -= Split, a += Split, b += Split * kPanel) {
    UNROLL for (int s = 0; s < Split; s++) {
      UNROLL for (int line = 0; line < kPanel * 4; line += 64) __builtin_prefetch(reinterpret_cast<const char*>(b + (kAhead + s) * kPanel) + line);
      IVec bj[kCols];
      UNROLL for (int j = 0; j < kCols; j++) bj[j] = load_pairs(b + s * kPanel + j * kLanes);
      UNROLL for (int i = 0; i < R; i++) {
        const IVec ai = splat_pair(a + i * lda + s);
        UNROLL for (int j = 0; j < kCols; j++) sum[s][i][j] = dot(sum[s][i][j], ai, bj[j]);
      }
    }
  }
  UNROLL for (int s = 1; s < Split; s++)
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < kCols; j++) sum[0][i][j] += sum[s][i][j];
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int j = 0; j < kCols; j++) {
      float* to = tile + i * kPanel + j * kLanes;
      store(to, add ? sum[0][i][j] + load(to) : sum[0][i][j]);
    }
}

template <class = std::make_integer_sequence<int, kRows>>
struct PairsProducts;
template <int... I>
struct PairsProducts<std::integer_sequence<int, I...>> {
  static constexpr void (*fn[])(const Pair*, int64_t, const Pair*, int64_t, float*, bool) = {&pairs_product_of<I + 1, I == 0 ? 4 : I == 1 ? 2 : 1>...};
};
template <bool>
INLINE void pairs_product(int rows, const Pair* a, int64_t lda, const Pair* b, int64_t k, float* tile, bool add) {
  PairsProducts<>::fn[rows - 1](a, lda, b, k, tile, add);
}

#endif

void gemm_bf16(Workers& w, const accelcpu_gemm& o, const GemmData& d) {
  if (o.m == 0 || o.n == 0) return;
  const Epilogue e{o.alpha, d.bias, d.residual, d.c, o.ldc, o.ldr};
  const Finish finish = kFinish[o.activation];
  const BFloat* given = static_cast<const BFloat*>(d.a);
  const int64_t depth = ceil_div(o.k, kPairsDepth) * kPairsDepth, pairs = depth / 2;
  const Pair* a = reinterpret_cast<const Pair*>(given);
  int64_t lda = o.lda / 2;
  // Rows in whole depths, a pair at an even place: others are copied and filled up with zeros.
  if (depth != o.k || (o.lda % 2 != 0 && o.m > 1)) {
    BFloat* filled = static_cast<BFloat*>(w.space->grow(max_of<int64_t>(o.m * depth, 1) * 2));
    if (!filled) return w.fault.set(ACCELCPU_MEMORY, o.m, 0);
    w.each(o.m, [&](int64_t i, void*) {
      std::memcpy(filled + i * depth, given + i * o.lda, static_cast<size_t>(o.k) * 2);
      std::memset(filled + i * depth + o.k, 0, static_cast<size_t>(depth - o.k) * 2);
    });
    a = reinterpret_cast<const Pair*>(filled);
    lda = pairs;
  }
  const Pair* b = static_cast<const Pair*>(d.b);
  if (o.m <= kRows) {
    return gemm_thin(w, o, b, kPanel * pairs * 4, e, finish,
                     [&](const void* panel, float* tile) { pairs_product<true>(static_cast<int>(o.m), a, lda, static_cast<const Pair*>(panel), pairs, tile, false); });
  }
  gemm_tiled(w, Product<Pair>{a, o.m, o.n, pairs, lda, kPairsDepth / 2}, e, finish, pairs_product<false>,
             [&](void*) { return [=](int64_t column, int64_t k0, int64_t) { return b + column * pairs + k0 * kPanel; }; });
}

// Whether the instruction computes what it is thought to: a check of this machine, and of the above. Small whole numbers, whose sums
// are exact in any order.
bool pairs_agree() {
  constexpr int kDepth = 3 * kPairsDepth;
  alignas(64) static Pair a[kRows][kDepth / 2], b[kDepth / 2][kPanel];
  uint32_t state = 1;
  const auto next = [&] {
    state = state * 1664525u + 1013904223u;
    const float v = static_cast<float>(static_cast<int>(state >> 24) - 128);
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    return BFloat{static_cast<uint16_t>(bits >> 16)};
  };
  const auto value = [](BFloat v) {
    const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  };
  for (auto& row : a)
    for (Pair& p : row) p = {next(), next()};
  for (auto& row : b)
    for (Pair& p : row) p = {next(), next()};
  static float products[kRows][kPanel];
  for (int i = 0; i < kRows; i++) {
    for (int j = 0; j < kPanel; j++) {
      products[i][j] = 0;
      for (int k = 0; k < kDepth / 2; k++) products[i][j] += value(a[i][k].first) * value(b[k][j].first) + value(a[i][k].second) * value(b[k][j].second);
    }
  }
  for (int rows = 1; rows <= kRows; rows++) {
    for (const bool add : {false, true}) {
      alignas(64) float tile[kTile];
      for (float& v : tile) v = 3;
      pairs_product<false>(rows, a[0], kDepth / 2, b[0], kDepth / 2, tile, add);
      for (int i = 0; i < kRows; i++) {
        for (int j = 0; j < kPanel; j++) {
          if (tile[i * kPanel + j] != (i < rows ? products[i][j] : 0) + (i < rows && !add ? 0 : 3)) return false;
        }
      }
    }
  }
  return true;
}

}  // namespace
}  // namespace accelcpu
#endif
