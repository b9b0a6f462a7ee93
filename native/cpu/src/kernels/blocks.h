// Weights in blocks, as they are packed: codes of a few bits with a scale, and perhaps an offset, for each block along k.
#ifndef ACCELCPU_BLOCKS_H
#define ACCELCPU_BLOCKS_H

#include "bytes.h"
#include "tile.h"

namespace accelcpu {
namespace {

constexpr int kBlocksPanel = 2 * kLanes;
static_assert(kPanel % kBlocksPanel == 0, "a tile has whole panels");

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

constexpr int64_t kTaskBytes = 1 << 16;  // of weights that one task reads, about

// One of a kernel's tables, each for codes of so many bits.
template <class Table, template <int, class...> class By>
const Table& by_bits(uint32_t bits) {
  switch (bits) {
    case 2: return By<2>::table;
    case 3: return By<3>::table;
    case 4: return By<4>::table;
    case 5: return By<5>::table;
    case 6: return By<6>::table;
  }
  return By<8>::table;
}

}  // namespace
}  // namespace accelcpu
#endif
