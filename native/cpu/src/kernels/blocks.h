// Products with weights in blocks: codes of a few bits with a scale, and perhaps an offset, for each block along k.
#ifndef ACCELCPU_BLOCKS_H
#define ACCELCPU_BLOCKS_H

#include "gemm.h"

namespace accelcpu {
namespace {

constexpr int kBlocksPanel = 2 * kLanes;
static_assert(kPanel % kBlocksPanel == 0, "a tile has whole panels");

// ---- Packed weights ----

template <int Shift>
INLINE IVec shifted(IVec v) {
  if constexpr (Shift >= 0) {
    return v >> Shift;
  } else {
    return v << -Shift;
  }
}

// The codes of one step of a chunk, a byte each: four of k in every lane, of the panel's two halves.
template <int Bits, int Step>
INLINE void read_codes(const uint8_t* chunk, IVec& first, IVec& second) {
  constexpr auto every = [](int byte) { return byte * 0x01010101; };
  if constexpr (Bits == 8) {
    first = load_bytes(chunk + 2 * Step * kVecBytes), second = load_bytes(chunk + (2 * Step + 1) * kVecBytes);
    return;
  }
  constexpr int low = Bits & 4;  // bits below those of the next part
  first = second = IVec{};
  if constexpr (Bits & 4) {
    const IVec v = load_bytes(chunk + Step * kVecBytes);
    first = v & every(15), second = (v >> 4) & every(15);
    chunk += 4 * kVecBytes;
  }
  if constexpr (Bits & 2) {
    const IVec v = load_bytes(chunk + Step / 2 * kVecBytes);
    constexpr int at = Step % 2 * 4;
    first |= shifted<at - low>(v) & every(3 << low), second |= shifted<at + 2 - low>(v) & every(3 << low);
    chunk += 2 * kVecBytes;
  }
  if constexpr (Bits & 1) {
    constexpr int top = Bits - 1;
    const IVec v = load_bytes(chunk);
    first |= shifted<2 * Step - top>(v) & every(1 << top), second |= shifted<2 * Step + 1 - top>(v) & every(1 << top);
  }
}

// f(step) for the steps of a chunk, each a constant.
template <class F>
INLINE void each_step(const F& f) {
  f(std::integral_constant<int, 0>()), f(std::integral_constant<int, 1>());
  f(std::integral_constant<int, 2>()), f(std::integral_constant<int, 3>());
}

// A panel of packed weights.
struct BlocksPanel {
  const uint8_t *scales, *offsets, *codes;
  const BlocksLayout* layout;

  INLINE BlocksPanel(const BlocksLayout& l, const uint8_t* packed, int64_t index) : layout(&l) {
    scales = packed + index * l.panel_bytes();
    offsets = scales + l.blocks * l.width * l.scale_bytes;
    codes = scales + l.codes_at();
  }
  INLINE Vec floats(const uint8_t* from, int64_t bytes, int64_t at) const {
    return bytes == 2 ? load_as_float((const Half*)(from + 2 * at)) : load_as_float((const float*)(from + 4 * at));
  }
  INLINE Vec scale(int64_t block, int half) const { return floats(scales, layout->scale_bytes, block * kBlocksPanel + half * kLanes); }
  // What is to be added to scale * (code - bias).
  INLINE Vec offset(int64_t block, int half, Vec scale, float bias) const {
    const int64_t at = block * kBlocksPanel + half * kLanes;
    switch (layout->offset_bytes) {
      case 0: return splat(bias - layout->middle) * scale;
      case 1: return (splat(bias) - load_as_float(offsets + at)) * scale;
    }
    const Vec min = floats(offsets, layout->offset_bytes, at);
    return bias == 0 ? min : fma(splat(bias), scale, min);
  }
};

// ---- Rows in f32 ----

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

// ---- Rows in 8 bits ----

struct QuantizedRows {
  const int8_t* a;       // [rows, units * unit]
  const float* factors;  // [rows, units, 2]
};

void quantize_rows(Workers& w, const accelcpu_quantize_rows& o, const QuantizeRowsData& d) {
  const int64_t unit = o.unit, units = ceil_div(o.k, unit);
  int8_t* numbers = reinterpret_cast<int8_t*>(d.q);
  float* factors = reinterpret_cast<float*>(d.q + o.rows * units * unit);
  // Some units a task: a single row is long enough for several threads.
  constexpr int64_t kGroup = 64;
  const int64_t groups = ceil_div(units, kGroup);
  w.each(o.rows * groups, [&](int64_t task, void*) {
    const int64_t row = task / groups;
    for (int64_t u = task % groups * kGroup; u < min_of(units, (task % groups + 1) * kGroup); u++) {
      const float* x = d.x + row * o.ldx + u * unit;
      int8_t* q = numbers + (row * units + u) * unit;
      float filled[kUnit] = {};
      if (const int64_t n = o.k - u * unit; n < unit) {
        std::memcpy(filled, x, static_cast<size_t>(n) * sizeof *x);
        x = filled;
      }
      Vec size{};
      for (int64_t j = 0; j < unit; j += kLanes) size = max_nan(size, abs(load(x + j)));
      const float largest = fold(size, [](Vec a, Vec b) { return max_nan(a, b); });
      const float scale = largest - largest == 0 ? largest / 127 : NAN;
      int32_t rounded[kUnit] = {};
      float total = 0;
      if (scale > 0) {
        Vec all{};
        for (int64_t j = 0; j < unit; j += kLanes) {
          // A division: the reciprocal of a subnormal is infinite.
          const Vec v = round(load(x + j) / splat(scale));
          all += v;
          store_bytes(reinterpret_cast<uint8_t*>(rounded + j), to_int(v));
        }
        total = sum(all);
      }
      for (int64_t j = 0; j < unit; j++) q[j] = static_cast<int8_t>(rounded[j]);
      float* f = factors + (row * units + u) * 2;
      f[0] = scale;
      f[1] = scale * total;
    }
  });
}

// Scales and offsets of some units of a panel, in f32: widened beside the products, where a choice of types costs less.
constexpr int kUnitsOnce = 32;
struct UnitScales {
  Vec scale[kUnitsOnce][2], offset[kUnitsOnce][2];
};
NOINLINE void widen_scales(const BlocksPanel& w, int64_t unit, int units, float bias, UnitScales& to) {
  const int shift = __builtin_ctzll(static_cast<uint64_t>(w.layout->block)) - __builtin_ctzll(static_cast<uint64_t>(w.layout->unit));
  auto each = [&](auto f) {
    for (int u = 0; u < units; u++)
      UNROLL for (int half = 0; half < 2; half++) f(u, half, ((unit + u) >> shift) * kBlocksPanel + half * kLanes);
  };
  const bool halves = w.layout->scale_bytes == 2;
  if (halves) {
    each([&](int u, int half, int64_t at) { to.scale[u][half] = load_as_float(reinterpret_cast<const Half*>(w.scales) + at); });
  } else {
    each([&](int u, int half, int64_t at) { to.scale[u][half] = load_as_float(reinterpret_cast<const float*>(w.scales) + at); });
  }
  if (w.layout->offset_bytes == 0) {
    each([&](int u, int half, int64_t) { to.offset[u][half] = splat(bias - w.layout->middle) * to.scale[u][half]; });
  } else if (w.layout->offset_bytes == 1) {
    each([&](int u, int half, int64_t at) { to.offset[u][half] = (splat(bias) - load_as_float(w.offsets + at)) * to.scale[u][half]; });
  } else if (halves) {
    each([&](int u, int half, int64_t at) { to.offset[u][half] = fma(splat(bias), to.scale[u][half], load_as_float(reinterpret_cast<const Half*>(w.offsets) + at)); });
  } else {
    each([&](int u, int half, int64_t at) { to.offset[u][half] = fma(splat(bias), to.scale[u][half], load_as_float(reinterpret_cast<const float*>(w.offsets) + at)); });
  }
}

// As float_product, of rows in 8 bits. Sums of a unit's products are exact; the units are added up in order, whatever
// R is, so that a row does not depend on the others.
template <int Bits, int R, int Chunks>
NOINLINE void int_product_of(const QuantizedRows& rows, const BlocksPanel& w, float* tile) {
  using D = Dots<Bits>;
  const BlocksLayout& l = *w.layout;
  const int64_t lda = l.units * l.unit;
  const uint8_t* codes = w.codes;
  const int8_t* a = rows.a;
  Vec all[R][2];
  UNROLL for (int r = 0; r < R; r++) all[r][0] = all[r][1] = Vec{};
  UnitScales scales;
  for (int64_t unit = 0; unit < l.units; unit++) {
    const int at = static_cast<int>(unit % kUnitsOnce);
    if (at == 0) widen_scales(w, unit, static_cast<int>(min_of<int64_t>(kUnitsOnce, l.units - unit)), D::kBias, scales);
    IVec sum[R][2];
    UNROLL for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = IVec{};
    UNROLL for (int chunk = 0; chunk < Chunks; chunk++, codes += Bits * kVecBytes, a += kChunk) {
      typename D::Codes c[2][D::kGroup];
      each_step([&](auto step) {
        IVec v[2];
        read_codes<Bits, step>(codes, v[0], v[1]);
        UNROLL for (int half = 0; half < 2; half++) c[half][step % D::kGroup] = D::codes(v[half]);
        if constexpr ((step + 1) % D::kGroup == 0) {
          UNROLL for (int r = 0; r < R; r++) {
            IVec x[D::kGroup];
            UNROLL for (int g = 0; g < D::kGroup; g++) x[g] = splat_bytes(a + r * lda + 4 * (step + 1 - D::kGroup + g));
            UNROLL for (int half = 0; half < 2; half++) sum[r][half] = kept(D::add(sum[r][half], c[half], x));
          }
        }
      });
    }
    UNROLL for (int r = 0; r < R; r++) {
      const float* f = rows.factors + 2 * (r * l.units + unit);
      const Vec factor = splat(f[0]), total = splat(f[1]);
      UNROLL for (int half = 0; half < 2; half++) {
        Vec& v = all[r][half];
        v = fma(scales.offset[at][half], total, fma(to_float(D::total(sum[r][half])) * factor, scales.scale[at][half], v));
      }
    }
  }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int half = 0; half < 2; half++) store(tile + r * kPanel + half * kLanes, all[r][half]);
}

template <int Bits, int R>
void int_product(const QuantizedRows& rows, const BlocksPanel& w, float* tile) {
  if (w.layout->unit == kUnit) return int_product_of<Bits, R, kUnit / kChunk>(rows, w, tile);
  int_product_of<Bits, R, 1>(rows, w, tile);
}

// ---- Tables by bits and rows ----

constexpr int kFloatRows = 2;
// Rows of the tallest tile of rows in 8 bits: sums, and the codes of a step, in registers.
#if defined(VEC_AVX512)
template <int Bits> constexpr int kIntRows = 8;
#elif defined(VEC_AVX2)
template <int Bits> constexpr int kIntRows = 4;
#else
template <int Bits> constexpr int kIntRows = 4;
#endif
constexpr int kMaxIntRows = 8;

struct BlocksKernels {
  void (*float_product[kFloatRows])(const FloatRows&, const BlocksPanel&, float*);
  void (*int_product[4])(const QuantizedRows&, const BlocksPanel&, float*);  // of 1, 2, 4 and `tall` rows
  int tall;
  void (*widen)(const BlocksPanel&, int64_t, int64_t, float*);
};
template <int Bits>
constexpr BlocksKernels kBlocksKernels = {{&float_product<Bits, 1>, &float_product<Bits, 2>},
                                          {&int_product<Bits, 1>, &int_product<Bits, 2>, &int_product<Bits, 4>, &int_product<Bits, kIntRows<Bits>>},
                                          kIntRows<Bits>,
                                          &widen<Bits>};
const BlocksKernels& blocks_kernels(uint32_t bits) {
  switch (bits) {
    case 2: return kBlocksKernels<2>;
    case 3: return kBlocksKernels<3>;
    case 4: return kBlocksKernels<4>;
    case 5: return kBlocksKernels<5>;
    case 6: return kBlocksKernels<6>;
  }
  return kBlocksKernels<8>;
}

// ---- The operation ----

constexpr int64_t kTaskBytes = 1 << 16;  // of weights that one task reads, about

void gemm_blocks_quantized(Workers& w, const accelcpu_gemm_blocks& o, const GemmBlocksData& d, const BlocksLayout& l, const BlocksKernels& k, const Epilogue& e, Finish finish) {
  const auto* numbers = static_cast<const int8_t*>(d.a);
  const auto* factors = reinterpret_cast<const float*>(numbers + o.m * l.units * l.unit);
  // All rows pass by a panel while it is in a cache; rows are divided only where there are many.
  const int64_t row_blocks = ceil_div(o.m, kBlockM), panels = ceil_div(o.n, kBlocksPanel), rows_each = ceil_div(o.m, row_blocks);
  // The more rows, the fewer panels: a task is long enough to be worth it, short enough for the threads to end together.
  const int64_t group = max_of<int64_t>(1, min_of(kTaskBytes / l.panel_bytes() / ceil_div(rows_each, k.tall), panels * row_blocks / (4 * w.threads())));
  const int64_t groups = ceil_div(panels, group);
  w.each(groups * row_blocks, [&](int64_t task, void*) {
    alignas(64) float tile[kMaxIntRows * kPanel];
    const int64_t block = task / groups, g = task % groups, end = part(block + 1, o.m, row_blocks);
    for (int64_t p = g * group; p < min_of(panels, (g + 1) * group); p++) {
      const BlocksPanel panel(l, d.b, p);
      for (int64_t row = part(block, o.m, row_blocks); row < end;) {
        const int64_t left = end - row;
        const int tile_of = left >= k.tall ? 3 : left >= 4 ? 2 : left >= 2 ? 1 : 0, rows = tile_of == 3 ? k.tall : 1 << tile_of;
        k.int_product[tile_of]({numbers + row * l.units * l.unit, factors + row * l.units * 2}, panel, tile);
        finish(e, tile, row, rows, p * kBlocksPanel, static_cast<int>(min_of<int64_t>(kBlocksPanel, o.n - p * kBlocksPanel)));
        row += rows;
      }
    }
  });
}

void gemm_blocks(Workers& w, const accelcpu_gemm_blocks& o, const GemmBlocksData& d) {
  if (o.m == 0 || o.n == 0) return;
  const Epilogue e{1.0f, d.bias, d.residual, d.c, o.ldc, o.ldr};
  const Finish finish = kFinish[o.activation];
  const BlocksLayout l = blocks_layout(kLanes, o.k, o.weight);
  const BlocksKernels& k = blocks_kernels(o.weight.bits);
  if (o.quantized) return gemm_blocks_quantized(w, o, d, l, k, e, finish);

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
        k.float_product[o.m - 1](rows, BlocksPanel(l, d.b, p), tile);
        finish(e, tile, 0, static_cast<int>(o.m), p * kBlocksPanel, static_cast<int>(min_of<int64_t>(kBlocksPanel, o.n - p * kBlocksPanel)));
      }
    });
    return;
  }
  gemm_tiled(w, {a, o.m, o.n, o.k, o.lda, l.unit}, e, finish, [&](void* scratch) {
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
