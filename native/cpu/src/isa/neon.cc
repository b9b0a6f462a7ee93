// AArch64.
#define VEC_NEON
#define VEC_LANES 4
#define VEC_ROWS 6
#define VEC_COLS 4
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

const Kernels kernels_neon = {"neon", {"f32-p16", "f16-p16", "bf16-pairs-p16", "blocks-8p16"}, kPanel, kLanes, pack, gemm, gemm, 1, quantize_rows, gemm_blocks, gemm_blocks_int8, matmul, attention, norm, softmax, map, embed, reduce, conv, pool, resample, groupnorm, paged, rope};

}  // namespace accelcpu
