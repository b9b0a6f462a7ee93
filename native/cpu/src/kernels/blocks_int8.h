// Rows rounded to 8 bits, and their products with weights in blocks.
#ifndef ACCELCPU_BLOCKS_INT8_H
#define ACCELCPU_BLOCKS_INT8_H

#include "blocks.h"
#if defined(VEC_TILES)
#include "tiles.h"
#endif

namespace accelcpu {
namespace {

typedef int8_t Octets __attribute__((vector_size(VEC_LANES)));
typedef int8_t UnalignedNumbers __attribute__((vector_size(VEC_LANES), aligned(1), may_alias));

// q[j] = x[j] / f[0] rounded, for a unit; f[1] the sum of what they stand for.
template <int Unit>
INLINE void quantize_unit(const float* x, int8_t* q, float* f) {
  constexpr int kVecs = Unit / kLanes;
  Vec v[kVecs], size{};
  // Of positive floats the bits are in the floats' order, and NaNs above all others.
  const auto larger = [](Vec a, Vec b) { return from_bits(bits(a) > bits(b) ? bits(a) : bits(b)); };
  UNROLL for (int j = 0; j < kVecs; j++) {
    v[j] = load(x + j * kLanes);
    size = larger(size, abs(v[j]));
  }
  const float largest = fold(size, larger), scale = largest - largest == 0 ? largest / 127 : NAN;
  Vec all{};
  UNROLL for (int j = 0; j < kVecs; j++) {
    // A division: the reciprocal of a subnormal is infinite.
    const Vec number = scale > 0 ? round(v[j] / splat(scale)) : Vec{};
    all += number;
    *reinterpret_cast<UnalignedNumbers*>(q + j * kLanes) = __builtin_convertvector(to_int(number), Octets);
  }
  f[0] = scale;
  f[1] = scale * sum(all);
}

template <int Unit>
void quantize_by(Workers& w, const accelcpu_quantize_rows& o, const QuantizeRowsData& d) {
  const int64_t units = ceil_div(o.k, Unit);
  int8_t* numbers = reinterpret_cast<int8_t*>(d.q);
  float* factors = reinterpret_cast<float*>(d.q + o.rows * units * Unit);
  // Some units a task: a single row is long enough for several threads.
  constexpr int64_t kGroup = 64;
  const int64_t groups = ceil_div(units, kGroup);
  w.each(o.rows * groups, [&](int64_t task, void*) {
    const int64_t row = task / groups;
    for (int64_t u = task % groups * kGroup; u < min_of(units, (task % groups + 1) * kGroup); u++) {
      const float* x = d.x + row * o.ldx + u * Unit;
      float filled[Unit] = {};
      if (const int64_t n = o.k - u * Unit; n < Unit) {
        std::memcpy(filled, x, static_cast<size_t>(n) * sizeof *x);
        x = filled;
      }
      quantize_unit<Unit>(x, numbers + (row * units + u) * Unit, factors + (row * units + u) * 2);
    }
  });
}

void quantize_rows(Workers& w, const accelcpu_quantize_rows& o, const QuantizeRowsData& d) {
  if (o.unit == kUnit) return quantize_by<kUnit>(w, o, d);
  quantize_by<kChunk>(w, o, d);
}

// Units that a panel's rows pass by at a time, while their codes are in L1.
constexpr int kUnitsOnce = 32;
// Their scales and offsets, in f32: widened beside the products, where a choice of types costs less.
struct UnitScales {
  Vec scale[kUnitsOnce][2], offset[kUnitsOnce][2];
};
// Asks for memory before its turn.
INLINE void fetch(const uint8_t* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at);
}

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

// Codes are asked for so many units before their turn, beyond a panel's end into the next: memory is too far for the
// processor's own guesses, the more so as these stop where a page ends.
constexpr int64_t kUnitsAhead = 12;

// Some units of rows in 8 bits: numbers lda apart, and of each unit the scale and the scaled sum.
struct ByteRows {
  const int8_t* a;
  const float* factors;
  int64_t lda, ldf;
};

// tile[i*kPanel + j] (+)= sum over k of A[i,k] * w[k,j] for R rows and some units of a panel of weights. Sums of a unit's
// products are exact; the units are added up in order, whatever R is, so that a row does not depend on the others.
template <int Bits, int R, int Chunks>
NOINLINE void byte_product(const ByteRows& rows, const uint8_t* codes, const UnitScales& scales, int units, float* tile, bool add) {
  using D = Dots<Bits>;
  const int8_t* a = rows.a;
  const float* f = rows.factors;
  Vec all[R][2];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int half = 0; half < 2; half++) all[r][half] = add ? load(tile + r * kPanel + half * kLanes) : Vec{};
  for (int unit = 0; unit < units; unit++, f += 2) {
    IVec sum[R][2];
    UNROLL for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = IVec{};
    UNROLL for (int chunk = 0; chunk < Chunks; chunk++, codes += Bits * kVecBytes, a += kChunk) {
      UNROLL for (int line = 0; line < Bits * kVecBytes; line += 64) __builtin_prefetch(codes + kUnitsAhead * Chunks * Bits * kVecBytes + line);
      typename D::Codes c[2][D::kGroup];
      each_step([&](auto step) {
        IVec v[2];
        read_codes<Bits, step>(codes, v[0], v[1]);
        UNROLL for (int half = 0; half < 2; half++) c[half][step % D::kGroup] = D::codes(v[half]);
        if constexpr ((step + 1) % D::kGroup == 0) {
          UNROLL for (int r = 0; r < R; r++) {
            IVec x[D::kGroup];
            UNROLL for (int g = 0; g < D::kGroup; g++) x[g] = splat_bytes(a + r * rows.lda + 4 * (step + 1 - D::kGroup + g));
            UNROLL for (int half = 0; half < 2; half++) sum[r][half] = kept(D::add(sum[r][half], c[half], x));
          }
        }
      });
    }
    UNROLL for (int r = 0; r < R; r++) {
      const Vec factor = splat(f[r * rows.ldf]), total = splat(f[r * rows.ldf + 1]);
      UNROLL for (int half = 0; half < 2; half++) {
        Vec& v = all[r][half];
        v = fma(scales.offset[unit][half], total, fma(to_float(D::total(sum[r][half])) * factor, scales.scale[unit][half], v));
      }
    }
  }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int half = 0; half < 2; half++) store(tile + r * kPanel + half * kLanes, all[r][half]);
}

// Rows of the tallest tile: sums, and the codes of a step, in registers.
#if defined(VEC_AVX512)
constexpr int kTallest = 8;
#else
constexpr int kTallest = 4;
#endif
constexpr int64_t kMostRows = 64;  // that pass by a panel while they are in L2
constexpr int64_t kRowSums = kMostRows * kPanel;
static_assert((kRowSums + kUnitsOnce * kUnit * kBlocksPanel / 4) * 4 <= kScratchBytes, "their sums fit the scratch, and codes a byte each");

#if defined(VEC_TILES)

static_assert(kTileBytes == kVecBytes && Dots<8>::kBias == 0, "a row of a tile is a vector, of codes without sign");

// The codes of some units, a byte each: [units][2 halves][steps][kVecBytes].
template <int Bits>
NOINLINE void unpack_codes(const uint8_t* codes, int units, int64_t chunks, uint8_t* to) {
  for (int unit = 0; unit < units; unit++, to += 8 * chunks * kVecBytes) {
    for (int64_t chunk = 0; chunk < chunks; chunk++, codes += Bits * kVecBytes) {
      UNROLL for (int line = 0; line < Bits * kVecBytes; line += 64) __builtin_prefetch(codes + kUnitsAhead * chunks * Bits * kVecBytes + line);
      each_step([&](auto step) {
        IVec v[2];
        read_codes<Bits, step>(codes, v[0], v[1]);
        UNROLL for (int half = 0; half < 2; half++) store_bytes(to + ((half * chunks + chunk) * 4 + step) * kVecBytes, v[half]);
      });
    }
  }
}

// byte_product of up to kTilesRows rows, of codes that are a byte each. What it adds up is the same, in the same order.
template <int Chunks>
NOINLINE void tile_product(const ByteRows& rows, int count, const uint8_t* codes, const UnitScales& scales, int units, float* tile, bool add) {
  constexpr int kSteps = 4 * Chunks;
  const TileShapes shapes = tile_shapes<kSteps>(count);
  Tiles t(shapes);
  TilesSums sums;
  if (!add) std::memset(tile, 0, static_cast<size_t>(count) * kPanel * sizeof *tile);
  for (int unit = 0; unit < units; unit++, codes += 2 * kSteps * kTileBytes) {
    tile_sums<kSteps>(t, count, rows.a + unit * kSteps * 4, rows.lda, codes, sums);
    const float* f = rows.factors + 2 * unit;
    for (int r = 0; r < count; r++, f += rows.ldf) {
      const Vec factor = splat(f[0]), total = splat(f[1]);
      UNROLL for (int half = 0; half < 2; half++) {
        float* v = tile + r * kPanel + half * kLanes;
        const Vec sum = to_float(load_bytes(reinterpret_cast<const uint8_t*>(sums.of[r] + half * kLanes)));
        store(v, fma(scales.offset[unit][half], total, fma(sum * factor, scales.scale[unit][half], load(v))));
      }
    }
  }
  t.release();
}

#endif

// For codes of so many bits and units of 32 or 16, and 1 to kTallest rows.
struct ByteProducts {
  using Product = void (*)(const ByteRows&, const uint8_t*, const UnitScales&, int, float*, bool);
  Product of32[kTallest], of16[kTallest];
  float bias;
#if defined(VEC_TILES)
  void (*unpack)(const uint8_t*, int, int64_t, uint8_t*);
#endif
};
template <int Bits, class = std::make_integer_sequence<int, kTallest>>
struct ByteProductsOf;
template <int Bits, int... I>
struct ByteProductsOf<Bits, std::integer_sequence<int, I...>> {
  static constexpr ByteProducts table = {{&byte_product<Bits, I + 1, 2>...}, {&byte_product<Bits, I + 1, 1>...}, Dots<Bits>::kBias
#if defined(VEC_TILES)
    , &unpack_codes<Bits>
#endif
  };
};

void gemm_blocks_int8(Workers& w, const accelcpu_gemm_blocks& o, const GemmBlocksData& d) {
  if (o.m == 0 || o.n == 0) return;
  const Epilogue e{1.0f, d.bias, d.residual, d.c, o.ldc, o.ldr};
  const Finish finish = kFinish[o.activation];
  const BlocksLayout l = blocks_layout(kLanes, o.k, o.weight);
  const ByteProducts& products = by_bits<ByteProducts, ByteProductsOf>(o.weight.bits);
  const auto& product = l.unit == kUnit ? products.of32 : products.of16;
  const auto* numbers = static_cast<const int8_t*>(d.a);
  const int64_t lda = l.units * l.unit, ldf = 2 * l.units;
  const auto* factors = reinterpret_cast<const float*>(numbers + o.m * lda);
  // All rows pass by a panel while it is in a cache; rows are divided only where there are many.
  const int64_t row_blocks = ceil_div(o.m, kMostRows), panels = ceil_div(o.n, kBlocksPanel), rows_each = ceil_div(o.m, row_blocks);
  // The more rows, the fewer panels: a task is long enough to be worth it, short enough for the threads to end together.
  const int64_t group = max_of<int64_t>(1, min_of(kTaskBytes / l.panel_bytes() / ceil_div(rows_each, kTallest), panels * row_blocks / (4 * w.threads())));
  const int64_t groups = ceil_div(panels, group);
  w.each(groups * row_blocks, [&](int64_t task, void* scratch) {
    float* const sums = static_cast<float*>(scratch);
    UnitScales scales;
    const int64_t block = task / groups, g = task % groups, row0 = part(block, o.m, row_blocks), m = part(block + 1, o.m, row_blocks) - row0;
    int64_t tallest = kTallest;
#if defined(VEC_TILES)
    uint8_t* const bytes = reinterpret_cast<uint8_t*>(sums + kRowSums);
    if (m >= kTileRows) tallest = kTilesRows;
#endif
    const int64_t tiles = ceil_div(m, tallest);
    for (int64_t p = g * group; p < min_of(panels, (g + 1) * group); p++) {
      const BlocksPanel panel(l, d.b, p);
      if (p == g * group) fetch(panel.scales, min_of(l.panel_bytes(), l.codes_at() + kUnitsAhead * l.unit_bytes));
      for (int64_t unit = 0; unit < l.units; unit += kUnitsOnce) {
        const int units = static_cast<int>(min_of<int64_t>(kUnitsOnce, l.units - unit));
        const uint8_t* const codes = panel.codes + unit * l.unit_bytes;
        widen_scales(panel, unit, units, products.bias, scales);
#if defined(VEC_TILES)
        if (tallest == kTilesRows) products.unpack(codes, units, l.unit / kChunk, bytes);
#endif
        for (int64_t t = 0; t < tiles; t++) {
          const int64_t at = part(t, m, tiles), row = row0 + at;
          const int rows = static_cast<int>(part(t + 1, m, tiles) - at);
          float* const tile = sums + at * kPanel;
          const ByteRows some{numbers + row * lda + unit * l.unit, factors + row * ldf + 2 * unit, lda, ldf};
#if defined(VEC_TILES)
          if (tallest == kTilesRows) {
            (l.unit == kUnit ? tile_product<kUnit / kChunk> : tile_product<1>)(some, rows, bytes, scales, units, tile, unit > 0);
          } else
#endif
            product[rows - 1](some, codes, scales, units, tile, unit > 0);
          if (unit + units == l.units) finish(e, tile, row, rows, p * kBlocksPanel, static_cast<int>(min_of<int64_t>(kBlocksPanel, o.n - p * kBlocksPanel)));
        }
      }
    }
  });
}

}  // namespace
}  // namespace accelcpu
#endif
