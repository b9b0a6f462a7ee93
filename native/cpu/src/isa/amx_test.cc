// AMX's tiles emulated in plain C++ over wide16_test's vectors: for tests of what is done with tiles, on machines that have
// none. In the test library only.
#define TILES_EMULATED
#define VEC_TILES
#define VEC_LANES 16
#define VEC_ROWS 32  // of two tiles
#define VEC_COLS 2
#include "../kernels/blocks_int8.h"
#include "../kernels/linear_bf16.h"

namespace accelcpu {

const Int8Kernels kernels_amx_test = {tiles_agree, quantize_rows, gemm_blocks_int8};
const Bf16Kernels kernels_amx_test_bf16 = {pairs_agree, 4, gemm_bf16};

}  // namespace accelcpu
