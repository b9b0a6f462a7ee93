// The instruction set that every processor of an architecture has (x86-64-v1: SSE2), through
// the compiler's own vectors.
#define VEC_LANES 4
#define VEC_ROWS 4
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

const Kernels kernels_baseline = {"baseline", {"f32-p8", "f16-p8", "bf16-pairs-p8", "blocks-8p8"}, kPanel, kLanes, pack, gemm, gemm, 1, quantize_rows, gemm_blocks, gemm_blocks_int8, matmul, attention, norm, softmax, map, embed, reduce, conv, pool, resample, groupnorm, paged, rope};

}  // namespace accelcpu
