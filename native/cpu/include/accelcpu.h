// accelcpu: the native kernels of Accel's CPU backend.
//
// The library has one way to compute: a *program*, a list of operation structs
// standing one after another in memory, executed by accelcpu_run in one call.
// A program holds no pointers. It names memory as (buffer, byte offset); the
// buffers are given at each run, so that a plan made once serves every run, and
// several threads at a time.
//
// Rules that hold for every function and operation
//  - Nothing throws, aborts or prints. Functions answer accelcpu_code.
//  - Sizes, strides and counts are int64 and, unless said otherwise, in elements.
//    A size of 0 is allowed wherever it makes sense and does nothing.
//  - Every operation is checked whole, its extents against its buffers, before
//    it writes; only what depends on data (an index out of range, a division by
//    zero) is found while writing.
//  - A ref whose buffer is 0 is absent. Operands marked "optional" may be absent.
//  - An output may be the very same memory, with the same strides, as an input
//    marked "in place"; apart from that, outputs overlap nothing that the
//    operation reads. This is the caller's duty and is not checked.
//  - No pointer needs more than its element's alignment (64 bytes is fastest).
//  - Results do not depend on the number of threads, and are equal from run to
//    run; they differ in the last bits between instruction sets.
//  - NaN and infinity pass through as IEEE 754 and ONNX have it.
//
// Threads: a runner may be used from any number of threads at once. Its pool
// serves one operation at a time; who finds it busy runs that operation alone,
// on the calling thread. Workers spin a while after each operation, then sleep.
#ifndef ACCELCPU_H
#define ACCELCPU_H

#include <stdint.h>

#if defined(_WIN32)
#define ACCELCPU_API __declspec(dllexport)
#else
#define ACCELCPU_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

// Bumped with every change to this file that an older caller would not survive.
#define ACCELCPU_ABI_VERSION 3

ACCELCPU_API int32_t accelcpu_abi_version(void);

// "accelcpu <abi> <build id>": the build id is a hash of the sources.
ACCELCPU_API const char* accelcpu_version(void);

enum accelcpu_code {
  ACCELCPU_OK = 0,
  ACCELCPU_INVALID = 1,      // a parameter that can't be right
  ACCELCPU_UNSUPPORTED = 2,  // a right one that this build, or this machine, has no code for
  ACCELCPU_BOUNDS = 3,       // an operand reaches outside its buffer (value: bytes needed, limit: bytes there)
  ACCELCPU_INDEX = 4,        // an index in the data is out of range (value: the index, limit: the size it indexes)
  ACCELCPU_DIVIDE = 5,       // an integer was divided by zero
  ACCELCPU_CANCELLED = 6,    // the cancel flag was seen
  ACCELCPU_MEMORY = 7,       // memory or threads could not be had
};

// Element types carry the numbers of ONNX TensorProto.DataType.
enum accelcpu_dtype {
  ACCELCPU_F32 = 1,
  ACCELCPU_U8 = 2,
  ACCELCPU_I8 = 3,
  ACCELCPU_U16 = 4,
  ACCELCPU_I16 = 5,
  ACCELCPU_I32 = 6,
  ACCELCPU_I64 = 7,
  ACCELCPU_BOOL = 9,
  ACCELCPU_F16 = 10,
  ACCELCPU_F64 = 11,
  ACCELCPU_U32 = 12,
  ACCELCPU_U64 = 13,
  ACCELCPU_BF16 = 16,
};

// ---- Instruction sets -------------------------------------------------------

typedef struct {
  const char* name;     // "baseline", "avx2", "avx512", "neon"
  int32_t supported;    // 1 if this machine can run it
  int32_t reserved;
} accelcpu_isa;

// The instruction sets built into this library, best last. Returns how many
// there are; at most `capacity` are written.
ACCELCPU_API int32_t accelcpu_isas(accelcpu_isa* out, int32_t capacity);

// ---- Runners ----------------------------------------------------------------

typedef struct accelcpu_runner accelcpu_runner;

typedef struct {
  const char* isa;       // a name from accelcpu_isas; null or "" takes the best that this machine has
  int32_t threads;       // threads that work on one operation, the caller's included; 0: the physical cores
  int32_t pin;           // 1: pin worker i to the i-th processor that the process may use (Linux only)
  int32_t spin_us;       // microseconds that an idle worker spins before it sleeps; -1: 50
  int32_t reserved;
} accelcpu_config;

typedef struct {
  int32_t code;          // accelcpu_code
  int32_t op;            // index of the failing operation in its program, or -1
  int64_t value, limit;  // see accelcpu_code; else 0
  char text[160];        // what is wrong, one line, never empty after a failure
} accelcpu_result;

// Makes a runner and its threads. `isa` unknown: INVALID; known but not runnable
// here: UNSUPPORTED. Nothing is ever replaced by a lesser set.
ACCELCPU_API int32_t accelcpu_create(const accelcpu_config* config, accelcpu_runner** out, accelcpu_result* result);

// Ends the threads and frees the runner. No run may be under way.
ACCELCPU_API void accelcpu_destroy(accelcpu_runner*);

ACCELCPU_API const char* accelcpu_runner_isa(const accelcpu_runner*);
ACCELCPU_API int32_t accelcpu_runner_threads(const accelcpu_runner*);

// ---- Packed weights ---------------------------------------------------------

enum accelcpu_format {
  ACCELCPU_PACK_F32 = 0,
  ACCELCPU_PACK_F16 = 1,
  ACCELCPU_PACK_BF16 = 2,
  ACCELCPU_PACK_BLOCKS = 3,  // of PACK_BLOCKS, for accelcpu_packed_layout
};

// Bytes of a packed [n,k] weight, or -1 for sizes or a format that can't be.
ACCELCPU_API int64_t accelcpu_packed_bytes(const accelcpu_runner*, int32_t format, int64_t n, int64_t k);

enum accelcpu_offsets {
  ACCELCPU_OFFSETS_NONE = 0,   // w = scale * (code - 2^(bits-1))
  ACCELCPU_OFFSETS_ZEROS = 1,  // w = scale * (code - zero), zero of `bits` bits too
  ACCELCPU_OFFSETS_MINS = 2,   // w = scale * code + min
};

// A weight of codes that share a scale, and perhaps an offset, in blocks along k. The last block may be a part of one.
typedef struct {
  uint32_t bits;     // 2, 3, 4, 5, 6 or 8
  uint32_t block;    // a power of two from 16 to 2^20
  uint32_t scales;   // the type of scales and mins: F16 or F32
  uint32_t offsets;  // accelcpu_offsets
} accelcpu_blocks;

// Bytes of a packed [n,k] weight in blocks, or -1 for what can't be.
ACCELCPU_API int64_t accelcpu_packed_blocks_bytes(const accelcpu_runner*, const accelcpu_blocks*, int64_t n, int64_t k);

// Names the arrangement of packed bytes, such as "f32-p16": two runners with the
// same layout read each other's packed weights. Null for an unknown format.
ACCELCPU_API const char* accelcpu_packed_layout(const accelcpu_runner*, int32_t format);

// ---- Programs ---------------------------------------------------------------

typedef struct {
  void* data;
  int64_t bytes;
} accelcpu_buffer;

typedef struct {
  uint32_t buffer;    // index into the run's buffers; 0: absent (buffer 0 is never read)
  uint32_t reserved;
  int64_t offset;     // bytes
} accelcpu_ref;

enum accelcpu_kind {
  ACCELCPU_OP_PACK = 1,
  ACCELCPU_OP_GEMM = 2,
  ACCELCPU_OP_MATMUL = 3,
  ACCELCPU_OP_ATTENTION = 4,
  ACCELCPU_OP_NORM = 5,
  ACCELCPU_OP_SOFTMAX = 6,
  ACCELCPU_OP_MAP = 7,
  ACCELCPU_OP_CAST = 8,
  ACCELCPU_OP_COPY = 9,
  ACCELCPU_OP_GATHER = 10,
  ACCELCPU_OP_EMBED = 11,
  ACCELCPU_OP_REDUCE = 12,
  ACCELCPU_OP_CONV = 13,
  ACCELCPU_OP_POOL = 14,
  ACCELCPU_OP_RESAMPLE = 15,
  ACCELCPU_OP_GROUPNORM = 16,
  ACCELCPU_OP_GRIDSAMPLE = 17,
  ACCELCPU_OP_PAGED = 18,
  ACCELCPU_OP_ROPE = 19,
  ACCELCPU_OP_PACK_BLOCKS = 20,
  ACCELCPU_OP_QUANTIZE_ROWS = 21,
  ACCELCPU_OP_GEMM_BLOCKS = 22,
  ACCELCPU_OP_GATHER_BLOCKS = 23,
};

// Begins every operation struct. The next one stands `bytes` further on.
typedef struct {
  uint32_t kind;
  uint32_t bytes;  // sizeof the struct
} accelcpu_op;

typedef struct {
  const void* program;             // 8-byte aligned
  int64_t program_bytes;
  const accelcpu_buffer* buffers;
  int64_t buffer_count;            // buffer 0 included
  const int32_t* cancel;           // optional: looked at before each operation; non-zero stops the run
  int64_t* op_ns;                  // optional: receives the nanoseconds that each operation took
  int64_t op_ns_count;
} accelcpu_run_args;

// Runs a program, in order. Returns result->code.
ACCELCPU_API int32_t accelcpu_run(accelcpu_runner*, const accelcpu_run_args*, accelcpu_result*);

// ---- Operations -------------------------------------------------------------

enum accelcpu_activation {
  ACCELCPU_ACT_NONE = 0,
  ACCELCPU_ACT_RELU = 1,
  ACCELCPU_ACT_GELU_ERF = 2,   // x/2 * (1 + erf(x/sqrt(2)))
  ACCELCPU_ACT_GELU_TANH = 3,  // x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))
  ACCELCPU_ACT_SILU = 4,       // x * sigmoid(x)
  ACCELCPU_ACT_TANH = 5,
  ACCELCPU_ACT_SIGMOID = 6,
  // With the operation's act_a and act_b as a and b; CONV only.
  ACCELCPU_ACT_CLIP = 7,          // min(max(x, a), b)
  ACCELCPU_ACT_LEAKY_RELU = 8,    // x < 0 ? a * x : x
  ACCELCPU_ACT_HARD_SIGMOID = 9,  // min(max(a * x + b, 0), 1)
  ACCELCPU_ACT_HARD_SWISH = 10,   // x * min(max(a * x + b, 0), 1)
};

// dst = pack(B), the weight of a later GEMM. B[i,j], i < n, j < k, is of the format's type at
// src + i*n_stride + j*k_stride: (k,1) for a linear's [out,in], (1,n) for [in,out].
typedef struct {
  accelcpu_op op;
  accelcpu_ref src, dst;
  int64_t n, k, n_stride, k_stride;
  uint32_t format, reserved;
} accelcpu_pack;

// C[m,n] = act(alpha * A[m,k] * B^T + bias[n]) + residual[m,n], B packed as [n,k] in any format but BLOCKS, the rest f32; so are
// products and sums. A may be BF16 (`a_type`) where B's format is: then numbers of either below 2^-126 may count as
// zero. Rows of A, C and residual are lda, ldc, ldr apart. bias and residual are optional; C may be the residual in place.
typedef struct {
  accelcpu_op op;
  accelcpu_ref a, b, bias, residual, c;
  int64_t m, n, k, lda, ldc, ldr;
  float alpha;
  uint32_t activation, format, a_type;  // a_type: F32 or BF16
} accelcpu_gemm;

// dst = the [n,k] weight in blocks, packed for GEMM_BLOCKS. Codes of row i stand at codes + i*codes_stride bytes, one
// after another, least significant bit first, straddling bytes; zeros likewise, in rows of ceil(blocks*bits/8)
// bytes. scales and mins are [n, blocks], dense. blocks is ceil(k/block).
typedef struct {
  accelcpu_op op;
  accelcpu_ref codes, scales, offsets, dst;
  int64_t n, k, codes_stride;
  accelcpu_blocks weight;
} accelcpu_pack_blocks;

// q = x rounded to 8 bits, row by row in units along k, for GEMM_BLOCKS. A unit has 32 numbers, or 16 for weights in blocks of
// 16: scale = max|x| / 127, n = round_half_even(x / scale), 0 where scale is; in a unit with NaN or infinity all is NaN. With
// units = ceil(k/unit), q has rows * units * (unit + 8) bytes: the numbers [rows, units, unit], then [rows, units, 2] f32, the scale
// and the scale times the sum of the unit's numbers.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, q;
  int64_t rows, k, ldx;
  uint32_t unit, reserved;
} accelcpu_quantize_rows;

// C[m,n] = act(A[m,k] * B^T + bias[n]) + residual[m,n] with B in blocks, packed as [n,k]. A is f32 and so is the sum;
// or, with `quantized`, A is what QUANTIZE_ROWS made of it (lda counts for nothing), and the products of a unit are summed up in integers.
// Then a row of C depends on the row of A alone. Rows of A, C and residual are lda, ldc, ldr apart. bias and residual are optional;
// C may be the residual in place.
typedef struct {
  accelcpu_op op;
  accelcpu_ref a, b, bias, residual, c;
  int64_t m, n, k, lda, ldc, ldr;
  accelcpu_blocks weight;
  uint32_t activation, quantized;
} accelcpu_gemm_blocks;

// y[count, k] = the rows `index` of a weight in blocks, as PACK_BLOCKS reads it (not packed), f32, dense. Indices are I64 or I32,
// in [-n, n).
typedef struct {
  accelcpu_op op;
  accelcpu_ref codes, scales, offsets, index, y;
  int64_t n, k, codes_stride, count;
  accelcpu_blocks weight;
  uint32_t index_type, reserved;
} accelcpu_gather_blocks;

#define ACCELCPU_MATMUL_BATCH 6

// C = act(alpha * A * B + bias[n]) over a batch of matrices in f32, nothing packed before.
// A[i,j] is at a_row*i + a_col*j, so that either side may be transposed; C's columns are
// adjacent. The batch has `rank` dimensions of the given sizes, outermost first;
// a stride of 0 broadcasts (not for C).
typedef struct {
  accelcpu_op op;
  accelcpu_ref a, b, bias, c;
  int64_t m, n, k, a_row, a_col, b_row, b_col, c_row;
  int64_t batch[ACCELCPU_MATMUL_BATCH];
  int64_t a_batch[ACCELCPU_MATMUL_BATCH], b_batch[ACCELCPU_MATMUL_BATCH], c_batch[ACCELCPU_MATMUL_BATCH];
  uint32_t rank;
  float alpha;
  uint32_t activation, reserved;
} accelcpu_matmul;

enum accelcpu_mask {
  ACCELCPU_MASK_NONE = 0,
  ACCELCPU_MASK_ADD = 1,   // f32, added to the scores
  ACCELCPU_MASK_BOOL = 2,  // one byte each, non-zero: attend
};

// o = softmax(softcap(scale * q k^T) + mask) v per batch and head, f32; the scores
// are never written out. Query head h reads key head h / (heads / kv_heads).
// Strides are (batch, token, head); the last dimension is dense. mask has strides
// (batch, head, query, key), 0 broadcasts. Query i attends to key j where
//   j < kv_lengths[batch]             (optional, int64; clamped to 0..kv_len)
//   j <= i + offset                   if causal
//   j > i + offset - window           if window > 0
// `softcap` > 0: c*tanh(x/c). A query that may attend to nothing gives zeros, as
// the ONNX reference of Attention-23 does; so does kv_len 0.
typedef struct {
  accelcpu_op op;
  accelcpu_ref q, k, v, mask, kv_lengths, o;
  int64_t batch, heads, kv_heads, q_len, kv_len, head_dim, v_dim;
  int64_t q_stride[3], k_stride[3], v_stride[3], o_stride[3], mask_stride[4];
  int64_t offset, window;
  float scale, softcap;
  uint32_t mask_kind, causal;
} accelcpu_attention;

enum accelcpu_norm_kind {
  ACCELCPU_NORM_LAYER = 0,  // (s - mean) / sqrt(var + eps) * gamma + beta
  ACCELCPU_NORM_RMS = 1,    // s / sqrt(mean(s^2) + eps) * gamma + beta
  ACCELCPU_NORM_L2 = 2,     // s / max(sqrt(sum(s^2)), eps) * gamma + beta
};

// Per row of f32: s = x + residual; sum = s; y = norm(s). residual, sum, gamma and
// beta are optional. y and sum may be x or residual in place.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, residual, gamma, beta, sum, y;
  int64_t rows, cols, ldx, ldr, lds, ldy;
  float eps;
  uint32_t norm;
} accelcpu_norm;

// y = softmax(x), or its logarithm, along the middle of [outer, axis, inner], f32,
// dense. y may be x in place. A row of nothing but -inf gives NaN, as ONNX has it.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, y;
  int64_t outer, axis, inner;
  uint32_t log, reserved;
} accelcpu_softmax;

// One step of a MAP, on values in the compute type. Comparisons and logic give 1 or 0
// and take any non-zero for true.
enum accelcpu_fn {
  ACCELCPU_FN_CONST = 1,      // imm
  ACCELCPU_FN_COPY = 2,       // a
  // f32 and i64
  ACCELCPU_FN_ADD = 3,
  ACCELCPU_FN_SUB = 4,
  ACCELCPU_FN_MUL = 5,
  ACCELCPU_FN_DIV = 6,        // i64: towards zero; by zero is an error
  ACCELCPU_FN_MIN = 7,        // NaN if either is
  ACCELCPU_FN_MAX = 8,
  ACCELCPU_FN_NEG = 9,
  ACCELCPU_FN_ABS = 10,
  ACCELCPU_FN_SIGN = 11,
  ACCELCPU_FN_EQ = 12,
  ACCELCPU_FN_NE = 13,
  ACCELCPU_FN_LT = 14,
  ACCELCPU_FN_LE = 15,
  ACCELCPU_FN_GT = 16,
  ACCELCPU_FN_GE = 17,
  ACCELCPU_FN_AND = 18,       // logical
  ACCELCPU_FN_OR = 19,
  ACCELCPU_FN_XOR = 20,
  ACCELCPU_FN_NOT = 21,
  ACCELCPU_FN_WHERE = 22,     // a ? b : c
  ACCELCPU_FN_MOD = 23,       // sign of the divisor (ONNX Mod, fmod=0); f32 too
  ACCELCPU_FN_FMOD = 24,      // sign of the dividend (C's fmod)
  ACCELCPU_FN_POW = 25,       // i64: a negative exponent gives 0 unless |a| is 1
  // f32 only; the greatest error in ulp of the exact result stands behind. Results below
  // 2^-126 may come out as zero.
  ACCELCPU_FN_SQRT = 32,      // 0.5
  ACCELCPU_FN_RSQRT = 33,     // 1.5, 1/sqrt
  ACCELCPU_FN_RECIP = 34,     // 0.5
  ACCELCPU_FN_EXP = 35,       // 1
  ACCELCPU_FN_LOG = 36,       // 1
  ACCELCPU_FN_TANH = 37,      // 2
  ACCELCPU_FN_ERF = 38,       // 2
  ACCELCPU_FN_SIGMOID = 39,   // 2.5
  ACCELCPU_FN_SILU = 40,      // 3 for x > -87; below, |x| * 2^-124
  ACCELCPU_FN_GELU_ERF = 41,  // 4 for x > -1; below, |x| * 2^-22
  ACCELCPU_FN_GELU_TANH = 42, // likewise
  ACCELCPU_FN_RELU = 43,
  ACCELCPU_FN_FLOOR = 44,
  ACCELCPU_FN_CEIL = 45,
  ACCELCPU_FN_ROUND = 46,     // half to even
  ACCELCPU_FN_SIN = 47,       // libm's, and so are the following
  ACCELCPU_FN_COS = 48,
  ACCELCPU_FN_TAN = 49,
  ACCELCPU_FN_ASIN = 50,
  ACCELCPU_FN_ACOS = 51,
  ACCELCPU_FN_ATAN = 52,
  ACCELCPU_FN_SINH = 53,
  ACCELCPU_FN_COSH = 54,
  ACCELCPU_FN_ASINH = 55,
  ACCELCPU_FN_ACOSH = 56,
  ACCELCPU_FN_ATANH = 57,
  ACCELCPU_FN_SOFTPLUS = 58,  // 3
  ACCELCPU_FN_ISNAN = 59,
};

#define ACCELCPU_MAP_RANK 6
#define ACCELCPU_MAP_INPUTS 6
#define ACCELCPU_MAP_STEPS 24

// Operands 0..5 are the inputs; 8+i is the result of step i, for a later step.
typedef struct {
  uint8_t fn, a, b, c;
  uint32_t reserved;
  int64_t imm;  // CONST: the value; f32: its bits in the low half
} accelcpu_step;

typedef struct {
  accelcpu_ref data;
  uint32_t dtype, reserved;
  int64_t stride[ACCELCPU_MAP_RANK];  // 0 broadcasts; not for the output
} accelcpu_map_operand;

// out = steps(in...) for each element of dims[0..rank), a chain of elementwise
// functions run block by block in cache. Inputs are converted to `compute` (F32 or I64)
// as they are read, the last step's value to the output's type as it is written. F32 takes and
// gives any type but F64; I64 takes and gives integers and BOOL. Conversions are
// those of CAST. The output may be an input in place.
typedef struct {
  accelcpu_op op;
  uint32_t compute, rank, inputs, steps;
  int64_t dims[ACCELCPU_MAP_RANK];
  accelcpu_map_operand out;
  accelcpu_map_operand in[ACCELCPU_MAP_INPUTS];
  accelcpu_step step[ACCELCPU_MAP_STEPS];
} accelcpu_map;

// dst[i] = src[i], i < n, dense, between any two types above. To a float: nearest,
// ties to even, too large becomes infinity. Float to integer: towards zero; NaN gives 0,
// too large the nearest end of the range. Integer to integer: the low bits. To BOOL: non-zero.
typedef struct {
  accelcpu_op op;
  accelcpu_ref src, dst;
  int64_t n;
  uint32_t src_type, dst_type;
} accelcpu_cast;

#define ACCELCPU_COPY_RANK 8

// dst = src over dims, both with strides of their own, elements of 1, 2, 4 or 8
// bytes: transpose, slice, expand (stride 0), concat (a dst offset each). Strides
// of src may be negative.
typedef struct {
  accelcpu_op op;
  accelcpu_ref src, dst;
  uint32_t rank, elem_bytes;
  int64_t dims[ACCELCPU_COPY_RANK], src_stride[ACCELCPU_COPY_RANK], dst_stride[ACCELCPU_COPY_RANK];
} accelcpu_copy;

// y[outer, count, inner] = data[outer, axis, inner] at index[count] of the middle
// dimension; dense, `inner` in bytes. Indices are I64 or I32, in [-axis, axis).
typedef struct {
  accelcpu_op op;
  accelcpu_ref data, index, y;
  int64_t outer, axis, inner, count;
  uint32_t index_type, reserved;
} accelcpu_gather;

#define ACCELCPU_EMBED_TABLES 4

// y[r] = norm(sum over t of table[t][id[t][r]]), r < count: the embedding layer of
// BERT and its kin. Tables are f32 [table_rows[t], width], dense; ids I64 or I32 in
// [0, table_rows); absent ids mean r mod period[t], period[t] <= table_rows[t].
// `norm_kind` as in NORM, or ACCELCPU_EMBED_PLAIN.
#define ACCELCPU_EMBED_PLAIN 255
typedef struct {
  accelcpu_op op;
  accelcpu_ref table[ACCELCPU_EMBED_TABLES], ids[ACCELCPU_EMBED_TABLES], gamma, beta, y;
  int64_t table_rows[ACCELCPU_EMBED_TABLES], period[ACCELCPU_EMBED_TABLES];
  int64_t count, width, ldy;
  uint32_t tables, ids_type;
  float eps;
  uint32_t norm;
} accelcpu_embed;

enum accelcpu_reduce_kind {
  ACCELCPU_REDUCE_SUM = 0,
  ACCELCPU_REDUCE_MEAN = 1,
  ACCELCPU_REDUCE_MAX = 2,
  ACCELCPU_REDUCE_MIN = 3,
  ACCELCPU_REDUCE_PROD = 4,
  ACCELCPU_REDUCE_SUMSQ = 5,
  ACCELCPU_REDUCE_L2 = 6,
  ACCELCPU_REDUCE_L1 = 7,
};

// y[outer, inner] = reduction of x[outer, axis, inner] over its middle, f32, dense.
// An axis of 0 gives the neutral element (MEAN: NaN). `weight` [outer, axis] is
// optional, with SUM and MEAN: x is multiplied by it, and MEAN divides by
// max(sum of weights, eps): masked mean pooling in one pass.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, weight, y;
  int64_t outer, axis, inner;
  uint32_t reduce;
  float eps;
} accelcpu_reduce;

#define ACCELCPU_SPATIAL 3

// Convolution over three spatial dimensions, f32; one and two stand last, with sizes of 1 before
// them. For each image, group g, filter m and place o:
//   y[g,m,o] = act(bias[g,m] + sum over channel c and tap t of
//              w[g,m,c,t] * x[g,c, o*stride - pad + t*dilation] + residual[g,m,o])
// where x is 0 outside; or, with `residual_last`, act(...) + residual. x is dense, [batch,
// groups*channels, in]. y and residual both have the strides y_stride: of the image, the
// filter (of all groups counted through) and the spatial dimensions; y may be the residual in place. bias [groups*filters] and
// residual are optional. `pad` is what stands before x, and may be negative; what stands
// behind it follows from `out`.
// w is packed, group after group, each an [filters, channels*taps] weight of its own; but where
// `channels` is 1 and there is more than one group it lies as ONNX has it, [groups*filters, taps].
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, w, bias, residual, y;
  int64_t batch, groups, channels, filters;  // channels and filters of one group
  int64_t in[ACCELCPU_SPATIAL], kernel[ACCELCPU_SPATIAL], out[ACCELCPU_SPATIAL];
  int64_t stride[ACCELCPU_SPATIAL], dilation[ACCELCPU_SPATIAL], pad[ACCELCPU_SPATIAL];
  int64_t y_stride[2 + ACCELCPU_SPATIAL];
  float act_a, act_b;
  uint32_t activation, residual_last, format, reserved;
} accelcpu_conv;

enum accelcpu_pool_kind {
  ACCELCPU_POOL_MAX = 0,             // NaN if there is one
  ACCELCPU_POOL_AVERAGE = 1,         // of the taps within x
  ACCELCPU_POOL_AVERAGE_PADDED = 2,  // of the taps within x and its pads, which are 0
};

// y[p,o] = reduction over taps t of x[p, o*stride - pad + t*dilation], f32, dense, p < planes. Taps
// outside x do not count. A window without any gives -inf, an average of none NaN.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, y;
  int64_t planes;
  int64_t in[ACCELCPU_SPATIAL], kernel[ACCELCPU_SPATIAL], out[ACCELCPU_SPATIAL];
  int64_t stride[ACCELCPU_SPATIAL], dilation[ACCELCPU_SPATIAL], pad[ACCELCPU_SPATIAL], pad_end[ACCELCPU_SPATIAL];
  uint32_t pool, reserved;
} accelcpu_pool;

// y[outer, out, inner] = sum over t < taps of weight[out, t] * x[outer, index[out, t], inner], f32,
// dense: one axis of a resize, by any filter. index is I32, in [0, in).
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, index, weight, y;
  int64_t outer, in, out, inner, taps;
} accelcpu_resample;

// y = act((x - mean) / sqrt(var + eps) * scale[channel] + bias[channel]), f32, x dense [batch, groups, channels,
// inner], mean and variance those of a group; `channels` are those of one group, scale and bias [groups*channels],
// optional. y may be x in place.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, scale, bias, y;
  int64_t batch, groups, channels, inner;
  float eps;
  uint32_t activation;
} accelcpu_groupnorm;

enum accelcpu_sample_mode {
  ACCELCPU_SAMPLE_NEAREST = 0,  // ties to even
  ACCELCPU_SAMPLE_LINEAR = 1,
  ACCELCPU_SAMPLE_CUBIC = 2,  // R. Keys's, with a = -0.75
};

enum accelcpu_sample_padding {
  ACCELCPU_SAMPLE_ZEROS = 0,
  ACCELCPU_SAMPLE_BORDER = 1,
  ACCELCPU_SAMPLE_REFLECTION = 2,
};

// y[batch, channel, point] = x[batch, channel] at the place that grid[batch, point] names, f32, dense: GridSample
// of ONNX over the last `rank` of the dimensions `in` (those before are 1). A place has `rank` coordinates, of the
// last dimension first, from -1 to 1. A coordinate that is NaN lies outside.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, grid, y;
  int64_t batch, channels, points, in[ACCELCPU_SPATIAL];
  uint32_t rank, mode, padding, align_corners;
} accelcpu_gridsample;

// Attention over keys and values in pages: ai.accel.PagedAttention and PagedWrite of docs/architecture.md, section 2,
// whose terms these are. First k and v [tokens, kv_heads, width], f32, their tokens ldk and ldv apart, are written into
// the pages of their slots, in place; then q [tokens, heads, head_dim] attends to what the pages hold: o [tokens, heads,
// v_dim], dense. k, v and slots may be absent, all three; so may q, with o. Pools are [pages, page_size, kv_heads,
// width] of F32, F16 or BF16; or of I8, or U8 with two of 4 bits a byte (widths are even then), with f16
// scales [pages, page_size, kv_heads]. page_tables [sequences, table_width], lengths [sequences], starts [sequences + 1] and slots are
// I64. bias [heads, bias_columns] is optional, and needs causal.
// pages, sequences and table_width may be -1: as many as the buffers hold from their offsets on.
// A slot or a page outside the pools, starts that are not in order and lengths that do not fit are INDEX; nothing is
// written then. Parts of a context, which threads share, go by lengths alone.
typedef struct {
  accelcpu_op op;
  accelcpu_ref q, k, v, k_pages, v_pages, slots, page_tables, lengths, starts, k_scales, v_scales, bias, o;
  int64_t tokens, heads, kv_heads, head_dim, v_dim, page_size;
  int64_t ldq, ldk, ldv;
  int64_t pages, sequences, table_width;
  int64_t window, bias_columns;  // window 0: none
  float scale, softcap;          // softcap 0: none
  uint32_t k_type, v_type;
  uint32_t causal, reserved;
} accelcpu_paged;

// Rotary position embedding (J. Su et al., arXiv:2104.09864), f32: of each head [dim] the pair i < half, which is elements i
// and i + half, or 2i and 2i + 1 if `interleaved`, is turned by an angle: (a, b) -> (a cos - b sin, a sin + b cos). Elements
// from 2*half on stay. cos and sin are [batch, tokens, half]; with positions, I64 [batch, tokens] in [-rows, rows),
// they are tables [rows, half]. Strides are (batch, token, head). y may be x in place.
typedef struct {
  accelcpu_op op;
  accelcpu_ref x, cos, sin, positions, y;
  int64_t batch, tokens, heads, dim, half, rows;
  int64_t x_stride[3], y_stride[3];
  uint32_t interleaved, reserved;
} accelcpu_rope;

// Byte offset of a field of the operation struct named `type` ("gemm", "map_operand", ...),
// -1 where there is none; a null field asks for the struct's size. For bindings to
// check their mirror against.
ACCELCPU_API int64_t accelcpu_layout(const char* type, const char* field);

#ifdef __cplusplus
}
#endif
#endif
