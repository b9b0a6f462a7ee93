// Weights in blocks: their layout, how they get there, and the checks of their operations.
#include <cstring>

#include "check.h"
#include "kernels.h"

namespace accelcpu {

BlocksLayout blocks_layout(int lanes, int64_t k, const accelcpu_blocks& b) {
  BlocksLayout l;
  l.width = 2 * lanes;
  l.block = b.block;
  l.unit = l.block < kUnit ? l.block : kUnit;
  l.units = (k + l.unit - 1) / l.unit;
  l.blocks = (k + l.block - 1) / l.block;
  l.scale_bytes = b.scales == ACCELCPU_F16 ? 2 : 4;
  l.offset_bytes = b.offsets == ACCELCPU_OFFSETS_NONE ? 0 : b.offsets == ACCELCPU_OFFSETS_ZEROS ? 1 : l.scale_bytes;
  l.unit_bytes = l.unit * l.width * b.bits / 8;
  l.middle = static_cast<float>(1 << (b.bits - 1));
  return l;
}

namespace {

// Number i of a row of codes, least significant bit first.
uint32_t code_at(const uint8_t* row, int64_t bytes, uint32_t bits, int64_t i) {
  const int64_t at = i * bits;
  uint32_t word = row[at / 8];
  if (at / 8 + 1 < bytes) word |= uint32_t{row[at / 8 + 1]} << 8;
  return word >> (at % 8) & ((1u << bits) - 1);
}

// Puts a code where a panel's chunk has it.
void place(uint8_t* chunk, int lanes, uint32_t bits, int64_t step, int64_t lane, int64_t within, bool second, uint32_t code) {
  const int64_t vec = 4 * lanes, byte = lane * 4 + within;
  if (bits == 8) {
    chunk[(2 * step + second) * vec + byte] = static_cast<uint8_t>(code);
    return;
  }
  for (uint32_t part = 4; part > 0; part /= 2) {
    if (!(bits & part)) continue;
    const int64_t in_byte = 4 / part;  // steps whose two halves share a byte
    chunk[step / in_byte * vec + byte] |= static_cast<uint8_t>((code & ((1u << part) - 1)) << (part * (step % in_byte * 2 + second)));
    code >>= part;
    chunk += part * vec;
  }
}

// How weights in blocks lie before they are packed.
struct BlocksSource {
  int64_t blocks, code_bytes, zero_bytes, scale_bytes;

  BlocksSource(int64_t k, const accelcpu_blocks& b)
      : blocks((k + b.block - 1) / b.block), code_bytes((k * b.bits + 7) / 8), zero_bytes((blocks * b.bits + 7) / 8), scale_bytes(b.scales == ACCELCPU_F16 ? 2 : 4) {}
};

}  // namespace

void gather_blocks(Workers& w, const accelcpu_gather_blocks& o, const GatherBlocksData& d) {
  const BlocksSource s(o.k, o.weight);
  const uint32_t bits = o.weight.bits;
  w.each(o.count, [&](int64_t i, void*) {
    int64_t row = o.index_type == ACCELCPU_I64 ? static_cast<const int64_t*>(d.index)[i] : static_cast<const int32_t*>(d.index)[i];
    if (row < 0) row += o.n;
    const uint8_t* codes = d.codes + row * o.codes_stride;
    for (int64_t block = 0, k = 0; block < s.blocks; block++) {
      const int64_t at = row * s.blocks + block;
      float scale, zero = static_cast<float>(1 << (bits - 1)), min = 0;
      convert(d.scales + at * s.scale_bytes, o.weight.scales, &scale, ACCELCPU_F32, 1);
      if (o.weight.offsets == ACCELCPU_OFFSETS_MINS) {
        convert(d.offsets + at * s.scale_bytes, o.weight.scales, &min, ACCELCPU_F32, 1);
        zero = 0;
      } else if (o.weight.offsets == ACCELCPU_OFFSETS_ZEROS) {
        zero = static_cast<float>(code_at(d.offsets + row * s.zero_bytes, s.zero_bytes, bits, block));
      }
      for (const int64_t end = k + o.weight.block < o.k ? k + o.weight.block : o.k; k < end; k++) {
        d.y[i * o.k + k] = scale * (static_cast<float>(code_at(codes, s.code_bytes, bits, k)) - zero) + min;
      }
    }
  });
}

void pack_blocks(Workers& w, int lanes, int panel, const accelcpu_pack_blocks& o, const PackBlocksData& d) {
  const BlocksLayout l = blocks_layout(lanes, o.k, o.weight);
  const uint32_t bits = o.weight.bits;
  const BlocksSource s(o.k, o.weight);
  w.each((o.n + panel - 1) / panel * panel / l.width, [&](int64_t p, void*) {
    uint8_t* scales = d.dst + p * l.panel_bytes();
    uint8_t* offsets = scales + l.blocks * l.width * l.scale_bytes;
    uint8_t* codes = scales + l.codes_at();
    std::memset(scales, 0, static_cast<size_t>(l.panel_bytes()));
    for (int64_t j = 0; j < l.width && p * l.width + j < o.n; j++) {
      const int64_t row = p * l.width + j;
      for (int64_t b = 0; b < l.blocks; b++) {
        const int64_t at = b * l.width + j, from = row * l.blocks + b;
        std::memcpy(scales + at * l.scale_bytes, d.scales + from * l.scale_bytes, static_cast<size_t>(l.scale_bytes));
        if (o.weight.offsets == ACCELCPU_OFFSETS_MINS) {
          std::memcpy(offsets + at * l.scale_bytes, d.offsets + from * l.scale_bytes, static_cast<size_t>(l.scale_bytes));
        } else if (o.weight.offsets == ACCELCPU_OFFSETS_ZEROS) {
          offsets[at] = static_cast<uint8_t>(code_at(d.offsets + row * s.zero_bytes, s.zero_bytes, bits, b));
        }
      }
      for (int64_t k = 0; k < o.k; k++) {
        const uint32_t code = code_at(d.codes + row * o.codes_stride, s.code_bytes, bits, k);
        place(codes + k / kChunk * bits * 4 * lanes, lanes, bits, k % kChunk / 4, j % lanes, k % 4, j >= lanes, code);
      }
    }
  });
}

int64_t packed_blocks_bytes(const Kernels& k, const accelcpu_blocks& b, int64_t n, int64_t depth) {
  if (n < 0 || depth < 0 || n > kMaxSize || depth > kMaxSize) return -1;
  if (b.bits < 2 || b.bits > 8 || b.bits == 7 || b.block < kChunk || b.block > 1 << 20 || (b.block & (b.block - 1)) != 0) return -1;
  if ((b.scales != ACCELCPU_F16 && b.scales != ACCELCPU_F32) || b.offsets > ACCELCPU_OFFSETS_MINS) return -1;
  const BlocksLayout l = blocks_layout(k.lanes, depth, b);
  int64_t bytes;
  return __builtin_mul_overflow((n + k.panel - 1) / k.panel * k.panel / l.width, l.panel_bytes(), &bytes) ? -1 : bytes;
}

namespace {

// Bytes of rows in 8 bits.
int64_t quantized_bytes(int64_t rows, int64_t depth, int64_t unit) {
  int64_t bytes;
  return __builtin_mul_overflow(rows, (depth + unit - 1) / unit * (unit + 8), &bytes) ? INT64_MAX : bytes;
}

// Bytes of an [n,k] weight in blocks, 0 after a failure.
int64_t check_blocks(Checker& c, const Kernels& k, const accelcpu_blocks& b, int64_t n, int64_t depth) {
  c.size("n", n);
  c.size("k", depth, 1);
  const int64_t bytes = packed_blocks_bytes(k, b, n, depth);
  c.require(bytes >= 0, ACCELCPU_UNSUPPORTED, "no such blocks, or too many, bits", b.bits);
  return c.ok() ? bytes : 0;
}

// The operands of a weight that is not packed.
template <class Op, class Data>
void check_source(Checker& c, const Op& o, Data& d) {
  const BlocksSource s(o.k, o.weight);
  c.stride("codes_stride", o.codes_stride, o.n > 1 ? s.code_bytes : 0);
  d.codes = c.required<const uint8_t>("codes", o.codes, matrix(o.n, s.code_bytes, o.codes_stride));
  d.scales = static_cast<const uint8_t*>(c.required<const void>("scales", o.scales, dense3(o.n, s.blocks, 1), s.scale_bytes));
  if (o.weight.offsets == ACCELCPU_OFFSETS_MINS) {
    d.offsets = static_cast<const uint8_t*>(c.required<const void>("offsets", o.offsets, dense3(o.n, s.blocks, 1), s.scale_bytes));
  } else if (o.weight.offsets == ACCELCPU_OFFSETS_ZEROS) {
    d.offsets = c.required<const uint8_t>("offsets", o.offsets, dense3(o.n, s.zero_bytes, 1));
  }
}

}  // namespace

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_pack_blocks& o) {
  const int64_t bytes = check_blocks(c, k, o.weight, o.n, o.k);
  if (!c.ok()) return;
  PackBlocksData d = {};
  check_source(c, o, d);
  d.dst = static_cast<uint8_t*>(c.required<void>("dst", o.dst, dense(bytes / 4), 4));
  if (c.ok() && bytes > 0) pack_blocks(w, k.lanes, k.panel, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_gather_blocks& o) {
  check_blocks(c, k, o.weight, o.n, o.k);
  c.size("count", o.count);
  c.require(o.index_type == ACCELCPU_I64 || o.index_type == ACCELCPU_I32, ACCELCPU_UNSUPPORTED, "indices are I64 or I32, not type", o.index_type);
  if (!c.ok()) return;
  GatherBlocksData d = {};
  check_source(c, o, d);
  d.index = c.required<const void>("index", o.index, dense(o.count), o.index_type == ACCELCPU_I64 ? 8 : 4);
  d.y = c.required<float>("y", o.y, dense3(o.count, o.k, 1));
  if (!c.ok()) return;
  check_indices(w, d.index, o.index_type, o.count, -o.n, o.n);
  if (w.fault.code() == ACCELCPU_OK) gather_blocks(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_quantize_rows& o) {
  c.size("rows", o.rows);
  c.size("k", o.k, 1);
  c.stride("ldx", o.ldx, 0);
  c.require(o.unit == kUnit || o.unit == kChunk, ACCELCPU_INVALID, "a unit has 16 or 32 numbers, not", o.unit);
  if (!c.ok()) return;
  QuantizeRowsData d;
  d.x = c.required<const float>("x", o.x, matrix(o.rows, o.k, o.ldx));
  d.q = static_cast<uint8_t*>(c.required<void>("q", o.q, dense(quantized_bytes(o.rows, o.k, o.unit) / 4), 4));
  if (c.ok()) k.quantize_rows(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_gemm_blocks& o) {
  const int64_t bytes = check_blocks(c, k, o.weight, o.n, o.k);
  c.size("m", o.m);
  c.require(o.quantized <= 1, ACCELCPU_INVALID, "quantized is neither 0 nor 1", o.quantized);
  if (o.quantized == 0) c.stride("lda", o.lda, o.m > 1 ? o.k : 0);
  c.stride("ldc", o.ldc, o.m > 1 ? o.n : 0);
  c.stride("ldr", o.ldr, 0);
  c.require(o.activation <= ACCELCPU_ACT_SIGMOID, ACCELCPU_UNSUPPORTED, "no such activation", o.activation);
  if (!c.ok()) return;
  GemmBlocksData d;
  const Extent a = o.quantized ? dense(quantized_bytes(o.m, o.k, blocks_layout(k.lanes, o.k, o.weight).unit) / 4) : matrix(o.m, o.k, o.lda);
  d.a = c.required<const void>("a", o.a, a, 4);
  d.b = static_cast<const uint8_t*>(c.required<const void>("b", o.b, dense(bytes / 4), 4));
  d.bias = c.optional<const float>("bias", o.bias, dense(o.n));
  d.residual = c.optional<const float>("residual", o.residual, matrix(o.m, o.n, o.ldr));
  d.c = c.required<float>("c", o.c, matrix(o.m, o.n, o.ldc));
  if (c.ok()) (o.quantized ? k.gemm_blocks_int8 : k.gemm_blocks)(w, o, d);
}

}  // namespace accelcpu
