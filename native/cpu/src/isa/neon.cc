// AArch64.
#define VEC_NEON
#define VEC_LANES 4
#define VEC_ROWS 6
#define VEC_COLS 4
#include "../kernels/attention.h"
#include "../kernels/conv.h"
#include "../kernels/image.h"
#include "../kernels/map.h"
#include "../kernels/paged.h"
#include "../kernels/rope.h"
#include "../kernels/rows.h"

namespace accelcpu {

const Kernels kernels_neon = {"neon", "f32-p16", kPanel, pack, gemm, matmul, attention, norm, softmax, map, embed, reduce, conv, pool, resample, groupnorm, paged, rope};

}  // namespace accelcpu
