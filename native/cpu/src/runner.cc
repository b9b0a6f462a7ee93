// Runners, and the checks before each operation.
#include <chrono>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

#include "check.h"
#include "isa.h"
#include "kernels.h"

using namespace accelcpu;

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#ifndef ACCELCPU_BUILD_ID
#define ACCELCPU_BUILD_ID unknown
#endif

struct accelcpu_runner {
  const Kernels& kernels;
  Pool pool;
  // Memory of callers' threads, one for each that ever ran at the same time.
  struct Memory {
    void* scratch;
    Space space;
  };
  std::mutex mutex;
  std::vector<Memory> memory;

  accelcpu_runner(const Kernels& k, int threads, bool pin, int spin_us) : kernels(k), pool(threads, pin, spin_us) {}
  ~accelcpu_runner() {
    for (const Memory& m : memory) release(m);
  }

  Memory borrow() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (!memory.empty()) {
        const Memory m = memory.back();
        memory.pop_back();
        return m;
      }
    }
    return {aligned_allocate(kScratchBytes), {}};
  }
  void give_back(const Memory& m) noexcept {
    try {
      std::lock_guard<std::mutex> lock(mutex);
      memory.push_back(m);
    } catch (...) {
      release(m);
    }
  }
  static void release(const Memory& m) {
    aligned_release(m.scratch);
    aligned_release(m.space.data);
  }
};

namespace {

int64_t packed_bytes(const Kernels& k, uint32_t format, int64_t n, int64_t depth) {
  int64_t bytes;
  if (n < 0 || depth < 0 || n > kMaxSize || depth > kMaxSize || format > ACCELCPU_PACK_BF16) return -1;
  const int64_t each = format == ACCELCPU_PACK_F32 ? 4 : 2;
  if (format == ACCELCPU_PACK_BF16) depth = (depth + kPairsDepth - 1) / kPairsDepth * kPairsDepth;
  if (__builtin_mul_overflow((n + k.panel - 1) / k.panel * k.panel * each, depth, &bytes)) return -1;
  return bytes;
}

// Each checks its operation and runs it if all is well.

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_pack& o) {
  c.size("n", o.n);
  c.size("k", o.k);
  c.stride("n_stride", o.n_stride);
  c.stride("k_stride", o.k_stride);
  c.require(o.format <= ACCELCPU_PACK_BF16, ACCELCPU_UNSUPPORTED, "no such format", o.format);
  const int64_t bytes = packed_bytes(k, o.format, o.n, o.k), each = o.format == ACCELCPU_PACK_F32 ? 4 : 2;
  c.require(bytes >= 0, ACCELCPU_INVALID, "too large to pack, n", o.n);
  const auto* src = c.required<const void>("src", o.src, Extent().dim(o.n, o.n_stride).dim(o.k, o.k_stride), each);
  auto* dst = c.required<void>("dst", o.dst, dense(bytes / each), each);
  if (c.ok() && bytes > 0) k.pack(w, o, {src, dst});
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_gemm& o) {
  c.size("m", o.m);
  c.size("n", o.n);
  c.size("k", o.k);
  c.stride("lda", o.lda, o.m > 1 ? o.k : 0);
  c.stride("ldc", o.ldc, o.m > 1 ? o.n : 0);
  c.stride("ldr", o.ldr, 0);
  c.require(o.activation <= ACCELCPU_ACT_SIGMOID, ACCELCPU_UNSUPPORTED, "no such activation", o.activation);
  c.require(o.format <= ACCELCPU_PACK_BF16, ACCELCPU_UNSUPPORTED, "no such format", o.format);
  const int64_t bytes = packed_bytes(k, o.format, o.n, o.k), each = o.format == ACCELCPU_PACK_F32 ? 4 : 2;
  c.require(bytes >= 0, ACCELCPU_INVALID, "too large, n", o.n);
  const bool pairs = o.a_type == ACCELCPU_BF16;
  c.require(o.a_type == ACCELCPU_F32 || (pairs && o.format == ACCELCPU_PACK_BF16), ACCELCPU_UNSUPPORTED, "rows are not of F32, nor of BF16 with weights of it, but of type", o.a_type);
  GemmData d;
  d.a = c.required<const void>("a", o.a, matrix(o.m, o.k, o.lda), pairs ? 2 : 4);
  d.b = c.required<const void>("b", o.b, dense(bytes / each), each);
  d.bias = c.optional<const float>("bias", o.bias, dense(o.n));
  d.residual = c.optional<const float>("residual", o.residual, matrix(o.m, o.n, o.ldr));
  d.c = c.required<float>("c", o.c, matrix(o.m, o.n, o.ldc));
  if (c.ok()) (pairs && o.m >= k.bf16_rows ? k.gemm_bf16 : k.gemm)(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_matmul& o) {
  c.size("m", o.m);
  c.size("n", o.n);
  c.size("k", o.k);
  c.stride("a_row", o.a_row);
  c.stride("a_col", o.a_col);
  c.stride("b_row", o.b_row);
  c.stride("b_col", o.b_col);
  c.stride("c_row", o.c_row, o.m > 1 ? o.n : 0);
  c.require(o.rank <= ACCELCPU_MATMUL_BATCH, ACCELCPU_INVALID, "too many batch dimensions", o.rank);
  c.require(o.activation <= ACCELCPU_ACT_SIGMOID, ACCELCPU_UNSUPPORTED, "no such activation", o.activation);
  if (!c.ok()) return;
  Extent a, b, out;
  a.dim(o.m, o.a_row).dim(o.k, o.a_col);
  b.dim(o.k, o.b_row).dim(o.n, o.b_col);
  out.dim(o.m, o.c_row).dim(o.n, 1);
  for (uint32_t i = 0; i < o.rank; i++) {
    c.size("batch", o.batch[i]);
    c.stride("a_batch", o.a_batch[i]);
    c.stride("b_batch", o.b_batch[i]);
    c.stride("c_batch", o.c_batch[i], o.batch[i] > 1 && o.m > 0 && o.n > 0 ? 1 : 0);
    a.dim(o.batch[i], o.a_batch[i]);
    b.dim(o.batch[i], o.b_batch[i]);
    out.dim(o.batch[i], o.c_batch[i]);
  }
  MatMulData d;
  d.a = c.required<const float>("a", o.a, a);
  d.b = c.required<const float>("b", o.b, b);
  d.bias = c.optional<const float>("bias", o.bias, dense(o.n));
  d.c = c.required<float>("c", o.c, out);
  if (c.ok()) k.matmul(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_attention& o) {
  c.size("batch", o.batch);
  c.size("heads", o.heads);
  c.size("kv_heads", o.kv_heads, 1);
  c.size("q_len", o.q_len);
  c.size("kv_len", o.kv_len);
  c.size("head_dim", o.head_dim);
  c.size("v_dim", o.v_dim);
  c.require(o.head_dim <= kMaxHeadDim && o.v_dim <= kMaxHeadDim, ACCELCPU_UNSUPPORTED, "heads are wider than 1024", o.head_dim);
  c.require(o.kv_heads > 0 && o.heads % o.kv_heads == 0, ACCELCPU_INVALID, "heads is no multiple of kv_heads", o.heads);
  c.require(o.mask_kind <= ACCELCPU_MASK_BOOL, ACCELCPU_UNSUPPORTED, "no such mask_kind", o.mask_kind);
  c.stride("offset", o.offset);
  c.stride("window", o.window, 0);
  for (int i = 0; i < 3; i++) {
    c.stride("q_stride", o.q_stride[i]);
    c.stride("k_stride", o.k_stride[i]);
    c.stride("v_stride", o.v_stride[i]);
    c.stride("o_stride", o.o_stride[i]);
  }
  for (int i = 0; i < 4; i++) c.stride("mask_stride", o.mask_stride[i]);
  auto extent = [](int64_t batch, int64_t length, int64_t heads, int64_t width, const int64_t* s) {
    return Extent().dim(batch, s[0]).dim(length, s[1]).dim(heads, s[2]).dim(width, 1);
  };
  AttentionData d;
  d.q = c.required<const float>("q", o.q, extent(o.batch, o.q_len, o.heads, o.head_dim, o.q_stride));
  d.k = c.required<const float>("k", o.k, extent(o.batch, o.kv_len, o.kv_heads, o.head_dim, o.k_stride));
  d.v = c.required<const float>("v", o.v, extent(o.batch, o.kv_len, o.kv_heads, o.v_dim, o.v_stride));
  d.mask = nullptr;
  if (o.mask_kind != ACCELCPU_MASK_NONE) {
    const Extent e = Extent().dim(o.batch, o.mask_stride[0]).dim(o.heads, o.mask_stride[1]).dim(o.q_len, o.mask_stride[2]).dim(o.kv_len, o.mask_stride[3]);
    d.mask = c.required<const void>("mask", o.mask, e, o.mask_kind == ACCELCPU_MASK_ADD ? 4 : 1);
  }
  d.lengths = c.optional<const int64_t>("kv_lengths", o.kv_lengths, dense(o.batch));
  d.o = c.required<float>("o", o.o, extent(o.batch, o.q_len, o.heads, o.v_dim, o.o_stride));
  if (c.ok()) k.attention(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_norm& o) {
  c.size("rows", o.rows);
  c.size("cols", o.cols);
  c.stride("ldx", o.ldx, 0);
  c.stride("ldr", o.ldr, 0);
  c.stride("lds", o.lds, o.rows > 1 && o.sum.buffer ? o.cols : 0);
  c.stride("ldy", o.ldy, o.rows > 1 ? o.cols : 0);
  c.require(o.norm <= ACCELCPU_NORM_L2, ACCELCPU_UNSUPPORTED, "no such norm", o.norm);
  NormData d;
  d.x = c.required<const float>("x", o.x, matrix(o.rows, o.cols, o.ldx));
  d.residual = c.optional<const float>("residual", o.residual, matrix(o.rows, o.cols, o.ldr));
  d.gamma = c.optional<const float>("gamma", o.gamma, dense(o.cols));
  d.beta = c.optional<const float>("beta", o.beta, dense(o.cols));
  d.sum = c.optional<float>("sum", o.sum, matrix(o.rows, o.cols, o.lds));
  d.y = c.required<float>("y", o.y, matrix(o.rows, o.cols, o.ldy));
  if (c.ok()) k.norm(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_softmax& o) {
  c.size("outer", o.outer);
  c.size("axis", o.axis);
  c.size("inner", o.inner);
  c.require(o.log <= 1, ACCELCPU_INVALID, "log is neither 0 nor 1", o.log);
  const auto* x = c.required<const float>("x", o.x, dense3(o.outer, o.axis, o.inner));
  auto* y = c.required<float>("y", o.y, dense3(o.outer, o.axis, o.inner));
  if (c.ok()) k.softmax(w, o, {x, y});
}

// How many operands a function takes; -1: there is no such function for the compute type.
int operands(uint8_t fn, uint32_t compute) {
  if (fn == ACCELCPU_FN_CONST) return 0;
  if (fn == ACCELCPU_FN_WHERE) return 3;
  if (fn == ACCELCPU_FN_COPY || (fn >= ACCELCPU_FN_NEG && fn <= ACCELCPU_FN_SIGN) || fn == ACCELCPU_FN_NOT) return 1;
  if (fn >= ACCELCPU_FN_ADD && fn <= ACCELCPU_FN_POW) return 2;
  return compute == ACCELCPU_F32 && fn >= ACCELCPU_FN_SQRT && fn <= ACCELCPU_FN_ISNAN ? 1 : -1;
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_map& o) {
  c.require(o.compute == ACCELCPU_F32 || o.compute == ACCELCPU_I64, ACCELCPU_UNSUPPORTED, "computes in F32 or I64, not in type", o.compute);
  c.require(o.rank <= ACCELCPU_MAP_RANK, ACCELCPU_INVALID, "too many dimensions", o.rank);
  c.require(o.inputs <= ACCELCPU_MAP_INPUTS, ACCELCPU_INVALID, "too many inputs", o.inputs);
  c.require(o.steps >= 1 && o.steps <= ACCELCPU_MAP_STEPS, ACCELCPU_INVALID, "steps are not within 1 and 24", o.steps);
  if (!c.ok()) return;
  bool empty = false;
  for (uint32_t i = 0; i < o.rank; i++) {
    c.size("dims", o.dims[i]);
    empty |= o.dims[i] == 0;
  }
  for (uint32_t s = 0; s < o.steps; s++) {
    const accelcpu_step& st = o.step[s];
    const int count = operands(st.fn, o.compute);
    c.require(count >= 0, ACCELCPU_UNSUPPORTED, "no such function for the compute type", st.fn);
    const uint8_t given[3] = {st.a, st.b, st.c};
    for (int i = 0; i < 3; i++) {
      const bool there = given[i] < o.inputs || (given[i] >= 8 && given[i] < 8 + s);
      c.require(there || (i >= count && given[i] == 0), ACCELCPU_INVALID, "a step names an operand that is not there", given[i]);
    }
  }
  auto operand = [&](const char* name, const accelcpu_map_operand& x, int64_t least) {
    const int bytes = dtype_bytes(x.dtype);
    const bool floats = x.dtype == ACCELCPU_F32 || x.dtype == ACCELCPU_F16 || x.dtype == ACCELCPU_BF16;
    c.require(bytes > 0 && x.dtype != ACCELCPU_F64 && (o.compute == ACCELCPU_F32 || !floats), ACCELCPU_UNSUPPORTED, "an operand's type does not go with the compute type", x.dtype);
    Extent e;
    for (uint32_t i = 0; i < o.rank; i++) {
      c.stride(name, x.stride[i], o.dims[i] > 1 && !empty ? least : -kMaxSize);
      e.dim(o.dims[i], x.stride[i]);
    }
    return c.required<void>(name, x.data, e, bytes);
  };
  MapData d = {};
  for (uint32_t x = 0; x < o.inputs; x++) d.in[x] = operand("input", o.in[x], -kMaxSize);
  d.out = operand("output", o.out, 1);
  if (c.ok()) k.map(w, o, d);
}

void run(Checker& c, const Kernels&, Workers& w, const accelcpu_cast& o) {
  c.size("n", o.n);
  c.require(dtype_bytes(o.src_type) > 0, ACCELCPU_UNSUPPORTED, "no such element type", o.src_type);
  c.require(dtype_bytes(o.dst_type) > 0, ACCELCPU_UNSUPPORTED, "no such element type", o.dst_type);
  const void* src = c.required<const void>("src", o.src, dense(o.n), dtype_bytes(o.src_type));
  void* dst = c.required<void>("dst", o.dst, dense(o.n), dtype_bytes(o.dst_type));
  if (c.ok()) cast(w, o, src, dst);
}

void run(Checker& c, const Kernels&, Workers& w, const accelcpu_copy& o) {
  c.require(o.rank <= ACCELCPU_COPY_RANK, ACCELCPU_INVALID, "too many dimensions", o.rank);
  c.require(o.elem_bytes == 1 || o.elem_bytes == 2 || o.elem_bytes == 4 || o.elem_bytes == 8, ACCELCPU_UNSUPPORTED, "elements are not of 1, 2, 4 or 8 bytes", o.elem_bytes);
  if (!c.ok()) return;
  bool empty = false;
  for (uint32_t i = 0; i < o.rank; i++) empty |= o.dims[i] == 0;
  Extent src, dst;
  for (uint32_t i = 0; i < o.rank; i++) {
    c.size("dims", o.dims[i]);
    c.stride("src_stride", o.src_stride[i]);
    c.stride("dst_stride", o.dst_stride[i], o.dims[i] > 1 && !empty ? 1 : 0);
    src.dim(o.dims[i], o.src_stride[i]);
    dst.dim(o.dims[i], o.dst_stride[i]);
  }
  CopyData d;
  d.src = c.required<const char>("src", o.src, src, o.elem_bytes);
  d.dst = c.required<char>("dst", o.dst, dst, o.elem_bytes);
  if (c.ok()) copy(w, o, d);
}

void run(Checker& c, const Kernels&, Workers& w, const accelcpu_gather& o) {
  c.size("outer", o.outer);
  c.size("axis", o.axis);
  c.size("inner", o.inner);
  c.size("count", o.count);
  c.require(o.index_type == ACCELCPU_I64 || o.index_type == ACCELCPU_I32, ACCELCPU_UNSUPPORTED, "indices are I64 or I32, not type", o.index_type);
  GatherData d;
  d.data = c.required<const char>("data", o.data, dense3(o.outer, o.axis, o.inner));
  d.index = c.required<const void>("index", o.index, dense(o.count), o.index_type == ACCELCPU_I64 ? 8 : 4);
  d.y = c.required<char>("y", o.y, dense3(o.outer, o.count, o.inner));
  if (!c.ok()) return;
  check_indices(w, d.index, o.index_type, o.count, -o.axis, o.axis);
  if (w.fault.code() == ACCELCPU_OK) gather(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_embed& o) {
  c.require(o.tables >= 1 && o.tables <= ACCELCPU_EMBED_TABLES, ACCELCPU_INVALID, "tables are not within 1 and 4", o.tables);
  c.require(o.ids_type == ACCELCPU_I64 || o.ids_type == ACCELCPU_I32, ACCELCPU_UNSUPPORTED, "ids are I64 or I32, not type", o.ids_type);
  c.require(o.norm <= ACCELCPU_NORM_L2 || o.norm == ACCELCPU_EMBED_PLAIN, ACCELCPU_UNSUPPORTED, "no such norm", o.norm);
  c.size("count", o.count);
  c.size("width", o.width);
  c.stride("ldy", o.ldy, o.count > 1 ? o.width : 0);
  if (!c.ok()) return;
  EmbedData d = {};
  for (uint32_t t = 0; t < o.tables; t++) {
    c.size("table_rows", o.table_rows[t]);
    d.table[t] = c.required<const float>("table", o.table[t], matrix(o.table_rows[t], o.width, o.width));
    d.ids[t] = c.optional<const void>("ids", o.ids[t], dense(o.count), o.ids_type == ACCELCPU_I64 ? 8 : 4);
    if (!d.ids[t] && o.ids[t].buffer == 0) c.require((o.period[t] >= 1 && o.period[t] <= o.table_rows[t]) || o.count == 0, ACCELCPU_INVALID, "period is not within 1 and table_rows", o.period[t]);
  }
  d.gamma = c.optional<const float>("gamma", o.gamma, dense(o.width));
  d.beta = c.optional<const float>("beta", o.beta, dense(o.width));
  d.y = c.required<float>("y", o.y, matrix(o.count, o.width, o.ldy));
  if (!c.ok()) return;
  for (uint32_t t = 0; t < o.tables; t++) {
    if (d.ids[t]) check_indices(w, d.ids[t], o.ids_type, o.count, 0, o.table_rows[t]);
  }
  if (w.fault.code() == ACCELCPU_OK) k.embed(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_reduce& o) {
  c.size("outer", o.outer);
  c.size("axis", o.axis);
  c.size("inner", o.inner);
  c.require(o.reduce <= ACCELCPU_REDUCE_L1, ACCELCPU_UNSUPPORTED, "no such reduction", o.reduce);
  c.require(o.weight.buffer == 0 || o.reduce <= ACCELCPU_REDUCE_MEAN, ACCELCPU_INVALID, "only sum and mean take weights, not reduction", o.reduce);
  ReduceData d;
  d.x = c.required<const float>("x", o.x, dense3(o.outer, o.axis, o.inner));
  d.weight = c.optional<const float>("weight", o.weight, dense3(o.outer, o.axis, 1));
  d.y = c.required<float>("y", o.y, dense3(o.outer, o.inner, 1));
  if (c.ok()) k.reduce(w, o, d);
}

// Sizes of convolution and pooling: small enough for a place to be counted in 64 bits.
constexpr int64_t kMaxSpatial = int64_t{1} << 30;

template <class Op>
void spatial(Checker& c, const Op& o) {
  auto check = [&](const char* name, const int64_t* v, int64_t least) {
    for (int i = 0; i < ACCELCPU_SPATIAL; i++) c.require(v[i] >= least && v[i] <= kMaxSpatial, ACCELCPU_INVALID, name, v[i]);
  };
  check("in is not within 0 and 2^30", o.in, 0);
  check("out is not within 0 and 2^30", o.out, 0);
  check("kernel is not within 1 and 2^30", o.kernel, 1);
  check("stride is not within 1 and 2^30", o.stride, 1);
  check("dilation is not within 1 and 2^30", o.dilation, 1);
  check("pad is not within -2^30 and 2^30", o.pad, -kMaxSpatial);
}

// Elements of [a, b, spatial...], not empty, or more than there can be.
int64_t volume(int64_t a, int64_t b, const int64_t* s) {
  int64_t n;
  if (__builtin_mul_overflow(a, b, &n)) return INT64_MAX;
  for (int i = 0; i < ACCELCPU_SPATIAL; i++) {
    if (__builtin_mul_overflow(n, s[i], &n)) return INT64_MAX;
  }
  return n;
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_conv& o) {
  c.size("batch", o.batch);
  c.size("groups", o.groups, 1);
  c.size("channels", o.channels);
  c.size("filters", o.filters);
  spatial(c, o);
  c.require(o.activation <= ACCELCPU_ACT_HARD_SWISH, ACCELCPU_UNSUPPORTED, "no such activation", o.activation);
  c.require(o.residual_last <= 1, ACCELCPU_INVALID, "residual_last is neither 0 nor 1", o.residual_last);
  c.require(o.format == ACCELCPU_PACK_F32, ACCELCPU_UNSUPPORTED, "no such format", o.format);
  int64_t all;
  c.require(!__builtin_mul_overflow(o.groups, o.filters, &all) && all <= kMaxSize, ACCELCPU_INVALID, "too many filters in all groups, groups", o.groups);
  if (!c.ok()) return;
  const int64_t y_dims[] = {o.batch, all, o.out[0], o.out[1], o.out[2]};
  bool empty = false;
  for (int64_t n : y_dims) empty |= n == 0;
  Extent y;
  for (int i = 0; i < 5; i++) {
    c.stride("y_stride", o.y_stride[i], y_dims[i] > 1 && !empty ? 1 : 0);
    y.dim(y_dims[i], o.y_stride[i]);
  }
  const int64_t depth = volume(o.channels, 1, o.kernel);
  int64_t weights = -1;
  if (o.channels == 1 && o.groups > 1) {
    weights = volume(o.groups, o.filters, o.kernel);
  } else if (const int64_t group = packed_bytes(k, ACCELCPU_PACK_F32, o.filters, depth); group >= 0 && __builtin_mul_overflow(group / 4, o.groups, &weights)) {
    weights = -1;
  }
  c.require(weights >= 0, ACCELCPU_INVALID, "too large, filters", o.filters);
  int64_t x_channels;
  const bool countable = !__builtin_mul_overflow(o.groups, o.channels, &x_channels);
  ConvData d;
  d.x = c.required<const float>("x", o.x, dense(countable ? volume(o.batch, x_channels, o.in) : INT64_MAX));
  d.w = c.required<const float>("w", o.w, dense(weights));
  d.bias = c.optional<const float>("bias", o.bias, dense(all));
  d.residual = c.optional<const float>("residual", o.residual, y);
  d.y = c.required<float>("y", o.y, y);
  if (c.ok() && !empty) k.conv(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_pool& o) {
  c.size("planes", o.planes);
  spatial(c, o);
  for (int64_t e : o.pad_end) c.require(e >= -kMaxSpatial && e <= kMaxSpatial, ACCELCPU_INVALID, "pad_end is not within -2^30 and 2^30", e);
  c.require(o.pool <= ACCELCPU_POOL_AVERAGE_PADDED, ACCELCPU_UNSUPPORTED, "no such pooling", o.pool);
  PoolData d;
  const int64_t n = volume(o.planes, 1, o.out);
  d.x = c.required<const float>("x", o.x, dense(volume(o.planes, 1, o.in)));
  d.y = c.required<float>("y", o.y, dense(n));
  if (c.ok() && n > 0) k.pool(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_resample& o) {
  c.size("outer", o.outer);
  c.size("in", o.in);
  c.size("out", o.out);
  c.size("inner", o.inner);
  c.size("taps", o.taps, 1);
  ResampleData d;
  d.x = c.required<const float>("x", o.x, dense3(o.outer, o.in, o.inner));
  d.index = c.required<const int32_t>("index", o.index, dense3(o.out, o.taps, 1));
  d.weight = c.required<const float>("weight", o.weight, dense3(o.out, o.taps, 1));
  d.y = c.required<float>("y", o.y, dense3(o.outer, o.out, o.inner));
  if (!c.ok()) return;
  check_indices(w, d.index, ACCELCPU_I32, o.out * o.taps, 0, o.in);
  if (w.fault.code() == ACCELCPU_OK) k.resample(w, o, d);
}

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_groupnorm& o) {
  c.size("batch", o.batch);
  c.size("groups", o.groups);
  c.size("channels", o.channels);
  c.size("inner", o.inner);
  c.require(o.activation <= ACCELCPU_ACT_SIGMOID, ACCELCPU_UNSUPPORTED, "no such activation", o.activation);
  if (!c.ok()) return;
  int64_t rows, length;
  if (__builtin_mul_overflow(o.batch, o.groups, &rows) || __builtin_mul_overflow(o.channels, o.inner, &length)) rows = length = INT64_MAX;
  GroupNormData d;
  d.x = c.required<const float>("x", o.x, dense3(rows, length, 1));
  d.scale = c.optional<const float>("scale", o.scale, dense3(o.groups, o.channels, 1));
  d.bias = c.optional<const float>("bias", o.bias, dense3(o.groups, o.channels, 1));
  d.y = c.required<float>("y", o.y, dense3(rows, length, 1));
  if (c.ok() && rows > 0 && length > 0) k.groupnorm(w, o, d);
}

void run(Checker& c, const Kernels&, Workers& w, const accelcpu_gridsample& o) {
  c.size("batch", o.batch);
  c.size("channels", o.channels);
  c.size("points", o.points);
  c.require(o.rank >= 1 && o.rank <= ACCELCPU_SPATIAL, ACCELCPU_INVALID, "rank is not within 1 and 3", o.rank);
  for (int i = 0; i < ACCELCPU_SPATIAL; i++) {
    const bool used = i + static_cast<int64_t>(o.rank) >= ACCELCPU_SPATIAL;
    c.require(used ? o.in[i] >= 1 && o.in[i] <= kMaxSpatial : o.in[i] == 1, ACCELCPU_INVALID, "in is not within 1 and 2^30, or not 1 before rank dimensions", o.in[i]);
  }
  c.require(o.mode <= ACCELCPU_SAMPLE_CUBIC, ACCELCPU_UNSUPPORTED, "no such mode", o.mode);
  c.require(o.padding <= ACCELCPU_SAMPLE_REFLECTION, ACCELCPU_UNSUPPORTED, "no such padding", o.padding);
  c.require(o.align_corners <= 1, ACCELCPU_INVALID, "align_corners is neither 0 nor 1", o.align_corners);
  GridSampleData d;
  d.x = c.required<const float>("x", o.x, dense(volume(o.batch, o.channels, o.in)));
  d.grid = c.required<const float>("grid", o.grid, dense3(o.batch, o.points, o.rank));
  d.y = c.required<float>("y", o.y, dense3(o.batch, o.channels, o.points));
  if (c.ok()) gridsample(w, o, d);
}

// ---- The kinds of operations, by number ----

using RunFn = void (*)(const accelcpu_run_args&, accelcpu_result*, const char* name, const Kernels&, Workers&, const void* op);

template <class Op>
void run_as(const accelcpu_run_args& args, accelcpu_result* result, const char* name, const Kernels& k, Workers& w, const void* op) {
  static_assert(sizeof(Op) % 8 == 0, "operations stand one after another, aligned");
  Checker c(args, result, name);
  run(c, k, w, *static_cast<const Op*>(op));
}

struct Kind {
  const char* name;
  uint32_t bytes;
  RunFn run;
};
#define KIND(type) {#type, sizeof(accelcpu_##type), run_as<accelcpu_##type>}
// At kind - 1.
const Kind kKinds[] = {KIND(pack), KIND(gemm), KIND(matmul), KIND(attention), KIND(norm), KIND(softmax), KIND(map), KIND(cast), KIND(copy), KIND(gather), KIND(embed), KIND(reduce), KIND(conv), KIND(pool), KIND(resample), KIND(groupnorm), KIND(gridsample), KIND(paged), KIND(rope), KIND(pack_blocks), KIND(quantize_rows), KIND(gemm_blocks), KIND(gather_blocks)};
constexpr uint32_t kKindCount = sizeof kKinds / sizeof kKinds[0];

int64_t now_ns() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

int32_t run_program(accelcpu_runner* r, const accelcpu_run_args& args, accelcpu_result* result, accelcpu_runner::Memory& memory) {
  const char* at = static_cast<const char*>(args.program);
  const char* const end = at + args.program_bytes;
  for (int32_t i = 0; at < end; i++) {
    result->op = i;
    // Another thread sets the flag while we run.
    if (args.cancel && __atomic_load_n(args.cancel, __ATOMIC_RELAXED) != 0) return fail(result, ACCELCPU_CANCELLED, 0, 0, "cancelled before this operation");
    accelcpu_op op;
    if (end - at < static_cast<int64_t>(sizeof op)) return fail(result, ACCELCPU_INVALID, 0, 0, "the program ends within an operation");
    std::memcpy(&op, at, sizeof op);
    if (op.kind < 1 || op.kind > kKindCount) return fail(result, ACCELCPU_UNSUPPORTED, 0, 0, "there is no operation of kind %u", op.kind);
    const Kind& kind = kKinds[op.kind - 1];
    if (op.bytes != kind.bytes || end - at < op.bytes) return fail(result, ACCELCPU_INVALID, 0, 0, "%s: the operation has %u bytes, not %u", kind.name, op.bytes, kind.bytes);
    const int64_t start = args.op_ns ? now_ns() : 0;
    Workers w{&r->pool, memory.scratch, &memory.space, {}};
    kind.run(args, result, kind.name, r->kernels, w, at);
    if (result->code != ACCELCPU_OK) return result->code;
    switch (w.fault.code()) {
      case ACCELCPU_OK: break;
      case ACCELCPU_INDEX:
        return fail(result, ACCELCPU_INDEX, w.fault.value(), w.fault.limit(), "%s: index %lld is out of range, there are %lld", kind.name, static_cast<long long>(w.fault.value()),
                    static_cast<long long>(w.fault.limit()));
      case ACCELCPU_MEMORY: return fail(result, ACCELCPU_MEMORY, w.fault.value(), 0, "%s: out of memory for %lld rows", kind.name, static_cast<long long>(w.fault.value()));
      default: return fail(result, w.fault.code(), w.fault.value(), w.fault.limit(), "%s: the integer %lld was to be divided by zero", kind.name, static_cast<long long>(w.fault.value()));
    }
    if (args.op_ns && i < args.op_ns_count) args.op_ns[i] = now_ns() - start;
    at += op.bytes;
  }
  result->op = -1;
  return ACCELCPU_OK;
}

}  // namespace

extern "C" {

int32_t accelcpu_abi_version(void) { return ACCELCPU_ABI_VERSION; }

const char* accelcpu_version(void) { return "accelcpu " STRING(ACCELCPU_ABI_VERSION) " " STRING(ACCELCPU_BUILD_ID); }

int32_t accelcpu_isas(accelcpu_isa* out, int32_t capacity) {
  const IsaList list = isas();
  for (int i = 0; out && i < list.count && i < capacity; i++) out[i] = {list.begin[i].kernels.isa, list.begin[i].runs_here, 0};
  return list.count;
}

int32_t accelcpu_create(const accelcpu_config* config, accelcpu_runner** out, accelcpu_result* result) {
  accelcpu_result unwanted;
  if (!result) result = &unwanted;
  std::memset(result, 0, sizeof *result);
  result->op = -1;
  if (!config || !out) return fail(result, ACCELCPU_INVALID, 0, 0, "config or out is null");
  *out = nullptr;
  const bool any = !config->isa || !*config->isa;
  const Isa* chosen = nullptr;
  const IsaList list = isas();
  for (const Isa* isa = list.begin; isa < list.begin + list.count; isa++) {
    if (any ? isa->runs_here : std::strcmp(isa->kernels.isa, config->isa) == 0) chosen = isa;
  }
  if (!chosen) return fail(result, ACCELCPU_INVALID, 0, 0, "no instruction set is named %.60s", any ? "" : config->isa);
  if (!chosen->runs_here) return fail(result, ACCELCPU_UNSUPPORTED, 0, 0, "this machine does not have the instruction set %s", chosen->kernels.isa);
  if (config->threads < 0 || config->threads > 1024) return fail(result, ACCELCPU_INVALID, 0, 0, "%d threads are not within 0 and 1024", config->threads);
  if (config->spin_us < -1) return fail(result, ACCELCPU_INVALID, 0, 0, "spin_us is %d", config->spin_us);
  try {
    *out = new accelcpu_runner(chosen->kernels, config->threads ? config->threads : physical_cores(), config->pin != 0, config->spin_us < 0 ? 50 : config->spin_us);
  } catch (const std::bad_alloc&) {
    return fail(result, ACCELCPU_MEMORY, 0, 0, "out of memory for a runner");
  } catch (const std::exception& e) {
    return fail(result, ACCELCPU_MEMORY, 0, 0, "can't start threads: %.100s", e.what());
  }
  return ACCELCPU_OK;
}

void accelcpu_destroy(accelcpu_runner* r) { delete r; }

const char* accelcpu_runner_isa(const accelcpu_runner* r) { return r->kernels.isa; }
int32_t accelcpu_runner_threads(const accelcpu_runner* r) { return r->pool.threads(); }

int64_t accelcpu_packed_bytes(const accelcpu_runner* r, int32_t format, int64_t n, int64_t k) { return packed_bytes(r->kernels, static_cast<uint32_t>(format), n, k); }
int64_t accelcpu_packed_blocks_bytes(const accelcpu_runner* r, const accelcpu_blocks* b, int64_t n, int64_t k) { return b ? packed_blocks_bytes(r->kernels, *b, n, k) : -1; }
const char* accelcpu_packed_layout(const accelcpu_runner* r, int32_t format) { return format >= 0 && format <= ACCELCPU_PACK_BLOCKS ? r->kernels.layouts[format] : nullptr; }

int32_t accelcpu_run(accelcpu_runner* r, const accelcpu_run_args* args, accelcpu_result* result) {
  accelcpu_result unwanted;
  if (!result) result = &unwanted;
  result->code = ACCELCPU_OK;
  result->op = -1;
  result->value = result->limit = 0;
  result->text[0] = 0;
  if (!r || !args || args->program_bytes < 0 || (args->program_bytes > 0 && !args->program) || args->buffer_count < 0 || (args->buffer_count > 0 && !args->buffers) || reinterpret_cast<uintptr_t>(args->program) % 8 != 0) {
    return fail(result, ACCELCPU_INVALID, 0, 0, "runner, arguments, program or buffers are null, negative or not aligned");
  }
  accelcpu_runner::Memory memory = r->borrow();
  if (!memory.scratch) return fail(result, ACCELCPU_MEMORY, 0, 0, "out of memory for scratch");
  const int32_t code = run_program(r, *args, result, memory);
  r->give_back(memory);
  return code;
}

}  // extern "C"
