// The iteration space of a MAP, made as flat as the strides allow.
#ifndef ACCELCPU_MAP_SHAPE_H
#define ACCELCPU_MAP_SHAPE_H

#include <cstdint>

#include "../include/accelcpu.h"

namespace accelcpu {

struct MapShape {
  static constexpr int kOperands = ACCELCPU_MAP_INPUTS + 1;  // the output comes after the last input
  int rank;                                                  // at least 1
  int64_t rows;                                              // elements of all dimensions but the last; 0: nothing to do
  int64_t dims[ACCELCPU_MAP_RANK];
  int64_t stride[kOperands][ACCELCPU_MAP_RANK];
  bool constant[kOperands];  // one element for all
  int bytes[kOperands];

  explicit MapShape(const accelcpu_map&);
  // at[r] = the element offset of (row0 + r, column) for operand x.
  void offsets(uint32_t x, int64_t row0, int64_t rows, int64_t column, int64_t* at) const;
};

}  // namespace accelcpu
#endif
