// x86-64 with AMX beside AVX-512 and VNNI: products of many rows of bytes or of bf16 on its tiles.
#define VEC_AVX512
#define VEC_VNNI
#define VEC_TILES
#define VEC_LANES 16
#define VEC_ROWS 32  // of two tiles
#define VEC_COLS 2
#include "../kernels/blocks_int8.h"
#include "../kernels/linear_bf16.h"

namespace accelcpu {

const Int8Kernels kernels_amx = {tiles_agree, quantize_rows, gemm_blocks_int8};
const Bf16Kernels kernels_amx_bf16 = {pairs_agree, 4, gemm_bf16};

}  // namespace accelcpu
