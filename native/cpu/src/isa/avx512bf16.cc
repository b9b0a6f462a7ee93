// x86-64 with AVX-512 and its dot products of bf16: rows of bf16, the rest is avx512's and avx512vnni's.
#define VEC_AVX512
#define VEC_BF16
#define VEC_LANES 16
#define VEC_ROWS 14
#define VEC_COLS 2
#include "../kernels/linear_bf16.h"

namespace accelcpu {

const Bf16Kernels kernels_avx512bf16 = {pairs_agree, 1, gemm_bf16};

}  // namespace accelcpu
