// x86-64 with AMX beside AVX-512 and VNNI: products of many rows of bytes on its tiles.
#define VEC_AVX512
#define VEC_VNNI
#define VEC_TILES
#define VEC_LANES 16
#define VEC_ROWS 14
#define VEC_COLS 2
#include "../kernels/blocks_int8.h"

namespace accelcpu {

const Int8Kernels kernels_amx = {tiles_agree, quantize_rows, gemm_blocks_int8};

}  // namespace accelcpu
