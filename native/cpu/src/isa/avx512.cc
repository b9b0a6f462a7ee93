// x86-64 with AVX-512 F, BW, VL and DQ.
#define VEC_AVX512
#define VEC_LANES 16
#define VEC_ROWS 14
#define VEC_COLS 2
#include "../kernels/attention.h"
#include "../kernels/blocks_f32.h"
#include "../kernels/blocks_int8.h"
#include "../kernels/conv.h"
#include "../kernels/image.h"
#include "../kernels/linear.h"
#include "../kernels/map.h"
#include "../kernels/paged.h"
#include "../kernels/rope.h"
#include "../kernels/rows.h"

namespace accelcpu {

const Kernels kernels_avx512 = {"avx512", {"f32-p32", "f16-p32", "bf16-pairs-p32", "blocks-32p32"}, kPanel, kLanes, pack, gemm, gemm, 1, quantize_rows, gemm_blocks, gemm_blocks_int8, matmul, attention, norm, softmax, map, embed, reduce, conv, pool, resample, groupnorm, paged, rope};

}  // namespace accelcpu
