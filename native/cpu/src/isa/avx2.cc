// x86-64 with AVX2, FMA and F16C.
#define VEC_AVX2
#define VEC_LANES 8
#define VEC_ROWS 6
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

const Kernels kernels_avx2 = {"avx2", {"f32-p16", "f16-p16", "bf16-pairs-p16", "blocks-16p16"}, kPanel, kLanes, pack, gemm, gemm, 1, quantize_rows, gemm_blocks, gemm_blocks_int8, matmul, attention, norm, softmax, map, embed, reduce, conv, pool, resample, groupnorm, paged, rope};

}  // namespace accelcpu
