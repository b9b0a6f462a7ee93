// x86-64 with AVX-512 and its VNNI: products of bytes, the rest is avx512's.
#define VEC_AVX512
#define VEC_VNNI
#define VEC_LANES 16
#define VEC_ROWS 14
#define VEC_COLS 2
#include "../kernels/blocks_int8.h"

namespace accelcpu {

const Int8Kernels kernels_avx512vnni = {nullptr, quantize_rows, gemm_blocks_int8};

}  // namespace accelcpu
