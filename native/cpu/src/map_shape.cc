#include "map_shape.h"

#include "kernels.h"

namespace accelcpu {

MapShape::MapShape(const accelcpu_map& o) {
  const int operands = static_cast<int>(o.inputs) + 1;
  auto operand = [&](int x) -> const accelcpu_map_operand& { return x < operands - 1 ? o.in[x] : o.out; };
  rank = 0;
  for (uint32_t i = 0; i < o.rank; i++) {
    if (o.dims[i] == 1) continue;
    // The dimension before joins this one where every operand steps over it without a gap.
    bool joins = rank > 0;
    for (int x = 0; x < operands && joins; x++) joins = stride[x][rank - 1] == operand(x).stride[i] * o.dims[i];
    if (!joins) dims[rank++] = 1;
    dims[rank - 1] *= o.dims[i];
    for (int x = 0; x < operands; x++) stride[x][rank - 1] = operand(x).stride[i];
  }
  if (rank == 0) {
    rank = 1;
    dims[0] = 1;
    for (int x = 0; x < operands; x++) stride[x][0] = 1;
  }
  rows = dims[rank - 1] == 0 ? 0 : 1;
  for (int i = 0; i < rank - 1; i++) rows *= dims[i];
  for (int x = 0; x < operands; x++) {
    bytes[x] = dtype_bytes(operand(x).dtype);
    constant[x] = true;
    for (int i = 0; i < rank; i++) constant[x] = constant[x] && (stride[x][i] == 0 || dims[i] == 1);
  }
}

void MapShape::offsets(uint32_t x, int64_t row0, int64_t count, int64_t column, int64_t* at) const {
  int64_t index[ACCELCPU_MAP_RANK], offset = column * stride[x][rank - 1];
  for (int i = rank - 2; i >= 0; i--) {
    index[i] = row0 % dims[i];
    row0 /= dims[i];
    offset += index[i] * stride[x][i];
  }
  for (int64_t r = 0; r < count; r++) {
    at[r] = offset;
    for (int i = rank - 2; i >= 0; i--) {
      offset += stride[x][i];
      if (++index[i] < dims[i]) break;
      index[i] = 0;
      offset -= dims[i] * stride[x][i];
    }
  }
}

}  // namespace accelcpu
