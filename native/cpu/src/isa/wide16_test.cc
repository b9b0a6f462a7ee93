// Sixteen lanes from the compiler's own vectors, compiled for AVX2: for tests of the
// 16-lane logic on machines without AVX-512. In the test library only.
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

const Kernels kernels_wide16_test = {"wide16-test", {"f32-p32", "f16-p32", "bf16-pairs-p32", "blocks-32p32"}, kPanel, kLanes, pack, gemm, gemm, 1, quantize_rows, gemm_blocks, gemm_blocks_int8, matmul, attention, norm, softmax, map, embed, reduce, conv, pool, resample, groupnorm, paged, rope};

}  // namespace accelcpu
