// Dot products of bf16 emulated over wide16_test's vectors: for tests of what is done with them, on machines that have none.
// In the test library only.
#define VEC_LANES 16
#define VEC_ROWS 14
#define VEC_COLS 2
#include "../kernels/linear_bf16.h"

namespace accelcpu {

const Bf16Kernels kernels_avx512bf16_test = {pairs_agree, 1, gemm_bf16};

}  // namespace accelcpu
