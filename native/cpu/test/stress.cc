// Runs operations of random shapes over buffers of exactly the size they need, from several threads
// at a time, on every instruction set of this machine: for the sanitizers, and for machines and
// emulators on which Go's tests do not run. Products, convolutions, attention, norms and softmax are compared
// with plain loops; plugins/cpu/kernels compares everything.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../include/accelcpu.h"

namespace {

int failures = 0;

// One thread's programs: operands in heap blocks of their own.
struct Lab {
  accelcpu_runner* runner;
  std::mt19937 random;
  std::vector<std::unique_ptr<char[]>> blocks;
  std::vector<accelcpu_buffer> buffers{{nullptr, 0}};

  int64_t pick(int64_t low, int64_t high) { return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1)); }
  float number() { return std::normal_distribution<float>()(random); }

  float* floats(int64_t n, accelcpu_ref* ref) {
    float* p = reinterpret_cast<float*>(bytes(n * 4, ref));
    for (int64_t i = 0; i < n; i++) p[i] = number();
    return p;
  }
  char* bytes(int64_t n, accelcpu_ref* ref) {
    blocks.emplace_back(new char[static_cast<size_t>(n)]);
    buffers.push_back({blocks.back().get(), n});
    *ref = {static_cast<uint32_t>(buffers.size() - 1), 0, 0};
    return blocks.back().get();
  }
  void clear() {
    blocks.clear();
    buffers.resize(1);
  }
  template <class Op>
  void run(uint32_t kind, Op& op) {
    op.op = {kind, sizeof op};
    accelcpu_run_args args = {&op, sizeof op, buffers.data(), static_cast<int64_t>(buffers.size()), nullptr, nullptr, 0};
    accelcpu_result result;
    if (accelcpu_run(runner, &args, &result) != ACCELCPU_OK) fail(result.text);
  }
  void fail(const char* what) {
    std::fprintf(stderr, "%s: %s\n", accelcpu_runner_isa(runner), what);
    __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
  }
  void expect(const char* what, float got, double want, double tolerance) {
    if (std::fabs(got - want) <= tolerance) return;
    char text[128];
    std::snprintf(text, sizeof text, "%s: %g, want %g", what, static_cast<double>(got), want);
    fail(text);
  }

  void gemm() {
    accelcpu_gemm o = {};
    accelcpu_pack p = {};
    o.m = pick(1, 40), o.n = pick(1, 70), o.k = pick(1, 600), o.lda = o.k, o.ldc = o.ldr = o.n, o.alpha = 1, o.a_type = ACCELCPU_F32;
    const float *a = floats(o.m * o.k, &o.a), *w = floats(o.n * o.k, &p.src), *bias = floats(o.n, &o.bias), *residual = floats(o.m * o.n, &o.residual);
    bytes(accelcpu_packed_bytes(runner, ACCELCPU_PACK_F32, o.n, o.k), &p.dst);
    float* c = floats(o.m * o.n, &o.c);
    o.b = p.dst;
    p.n = o.n, p.k = o.k, p.n_stride = o.k, p.k_stride = 1;
    run(ACCELCPU_OP_PACK, p);
    run(ACCELCPU_OP_GEMM, o);
    for (int64_t i = 0; i < o.m; i++) {
      for (int64_t j = 0; j < o.n; j++) {
        double sum = bias[j];
        for (int64_t k = 0; k < o.k; k++) sum += double{a[i * o.k + k]} * w[j * o.k + k];
        expect("gemm", c[i * o.n + j], sum + residual[i * o.n + j], 1e-4);
      }
    }
  }

  // A weight of random codes, multiplied with rows of f32 or rounded to 8 bits; and a table of 16 bits.
  void gemm_blocks() {
    accelcpu_pack_blocks p = {};
    accelcpu_gemm_blocks o = {};
    const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
    const uint32_t bits = widths[pick(0, 5)], kind = static_cast<uint32_t>(pick(0, 2));
    o.m = pick(1, 20), o.n = pick(1, 70), o.k = pick(1, 300), o.lda = o.k, o.ldc = o.ldr = o.n;
    o.weight = {bits, 16u << pick(0, 3), ACCELCPU_F32, kind};
    o.quantized = static_cast<uint32_t>(pick(0, 1));
    const int64_t blocks = (o.k + o.weight.block - 1) / o.weight.block, row = (o.k * bits + 7) / 8, zeros = (blocks * bits + 7) / 8;
    p.n = o.n, p.k = o.k, p.codes_stride = row, p.weight = o.weight;
    auto* codes = reinterpret_cast<uint8_t*>(bytes(o.n * row, &p.codes));
    for (int64_t i = 0; i < o.n * row; i++) codes[i] = static_cast<uint8_t>(random());
    const float *scales = floats(o.n * blocks, &p.scales), *mins = nullptr;
    const uint8_t* points = nullptr;
    if (kind == ACCELCPU_OFFSETS_MINS) mins = floats(o.n * blocks, &p.offsets);
    if (kind == ACCELCPU_OFFSETS_ZEROS) {
      auto* at = reinterpret_cast<uint8_t*>(bytes(o.n * zeros, &p.offsets));
      for (int64_t i = 0; i < o.n * zeros; i++) at[i] = static_cast<uint8_t>(random());
      points = at;
    }
    bytes(accelcpu_packed_blocks_bytes(runner, &o.weight, o.n, o.k), &p.dst);
    o.b = p.dst;
    run(ACCELCPU_OP_PACK_BLOCKS, p);
    const float *a = floats(o.m * o.k, &o.a), *bias = floats(o.n, &o.bias), *residual = floats(o.m * o.n, &o.residual);
    const float* c = floats(o.m * o.n, &o.c);
    if (o.quantized) {
      accelcpu_quantize_rows q = {};
      q.x = o.a, q.rows = o.m, q.k = q.ldx = o.k, q.unit = o.weight.block < 32 ? 16 : 32;
      bytes(o.m * ((o.k + q.unit - 1) / q.unit) * (q.unit + 8), &q.q);
      run(ACCELCPU_OP_QUANTIZE_ROWS, q);
      o.a = q.q;
    }
    run(ACCELCPU_OP_GEMM_BLOCKS, o);
    auto code = [&](const uint8_t* line, int64_t i) {
      double value = 0;
      for (uint32_t bit = 0; bit < bits; bit++) value += (line[(i * bits + bit) / 8] >> ((i * bits + bit) % 8) & 1) << bit;
      return value;
    };
    for (int64_t i = 0; i < o.m; i++) {
      for (int64_t j = 0; j < o.n; j++) {
        double sum = bias[j], size = 1;
        for (int64_t k = 0; k < o.k; k++) {
          const int64_t block = k / o.weight.block;
          const double zero = mins ? 0 : points ? code(points + j * zeros, block) : 1 << (bits - 1);
          const double w = (code(codes + j * row, k) - zero) * scales[j * blocks + block] + (mins ? mins[j * blocks + block] : 0);
          sum += a[i * o.k + k] * w;
          size += std::fabs(w) + std::fabs(zero * scales[j * blocks + block]);
        }
        // Numbers here are below 6: rounded to 8 bits, one is off by 3/127 at most.
        expect("gemm_blocks", c[i * o.n + j], sum + residual[i * o.n + j], size * (o.quantized ? 0.024 : 2e-6));
      }
    }

    accelcpu_gather_blocks r = {};
    r.codes = p.codes, r.scales = p.scales, r.offsets = p.offsets, r.n = o.n, r.k = o.k, r.codes_stride = row, r.weight = o.weight, r.index_type = ACCELCPU_I32, r.count = pick(1, 5);
    auto* index = reinterpret_cast<int32_t*>(bytes(r.count * 4, &r.index));
    for (int64_t i = 0; i < r.count; i++) index[i] = static_cast<int32_t>(pick(-o.n, o.n - 1));
    const float* rows = floats(r.count * o.k, &r.y);
    run(ACCELCPU_OP_GATHER_BLOCKS, r);
    for (int64_t i = 0; i < r.count * o.k; i++) {
      const int64_t j = (index[i / o.k] + o.n) % o.n, block = i % o.k / o.weight.block;
      const double zero = mins ? 0 : points ? code(points + j * zeros, block) : 1 << (bits - 1);
      expect("gather_blocks", rows[i], (code(codes + j * row, i % o.k) - zero) * scales[j * blocks + block] + (mins ? mins[j * blocks + block] : 0), 1e-3);
    }

    accelcpu_pack t = {};
    accelcpu_gemm g = {};
    t.format = g.format = static_cast<uint32_t>(pick(ACCELCPU_PACK_F16, ACCELCPU_PACK_BF16));
    g.m = o.m, g.n = o.n, g.k = o.k, g.lda = g.k, g.ldc = g.n, g.alpha = 1, g.a_type = ACCELCPU_F32;
    t.n = o.n, t.k = o.k, t.n_stride = o.k, t.k_stride = 1;
    std::memset(bytes(o.n * o.k * 2, &t.src), 0x3c, static_cast<size_t>(o.n * o.k) * 2);  // 0x3c3c: 1.05859375 or 0.011474609375
    const double w = t.format == ACCELCPU_PACK_F16 ? 1.05859375 : 0.011474609375;
    bytes(accelcpu_packed_bytes(runner, static_cast<int32_t>(t.format), o.n, o.k), &t.dst);
    const float* x = floats(g.m * g.k, &g.a);
    const float* y = floats(g.m * g.n, &g.c);
    g.b = t.dst;
    run(ACCELCPU_OP_PACK, t);
    run(ACCELCPU_OP_GEMM, g);
    for (int64_t i = 0; i < g.m; i++) {
      double sum = 0;
      for (int64_t k = 0; k < g.k; k++) sum += x[i * g.k + k] * w;
      for (int64_t j = 0; j < g.n; j++) expect("gemm of 16 bits", y[i * g.n + j], sum, 1e-4);
    }
    if (g.format != ACCELCPU_PACK_BF16) return;

    // Rows of bf16, of more of them at times.
    accelcpu_cast narrow = {};
    g.a_type = ACCELCPU_BF16, g.m = pick(1, 150), narrow.n = g.m * g.k;
    narrow.src_type = ACCELCPU_F32, narrow.dst_type = ACCELCPU_BF16;
    floats(g.m * g.k, &narrow.src);
    const auto* rows16 = reinterpret_cast<const uint16_t*>(bytes(g.m * g.k * 2, &narrow.dst));
    const float* c16 = floats(g.m * g.n, &g.c);
    g.a = narrow.dst;
    run(ACCELCPU_OP_CAST, narrow);
    run(ACCELCPU_OP_GEMM, g);
    for (int64_t i = 0; i < g.m; i++) {
      double sum = 0;
      for (int64_t k = 0; k < g.k; k++) {
        const uint32_t bits = uint32_t{rows16[i * g.k + k]} << 16;
        float v;
        std::memcpy(&v, &bits, sizeof v);
        sum += v * w;
      }
      for (int64_t j = 0; j < g.n; j++) expect("gemm of bf16", c16[i * g.n + j], sum, 1e-4);
    }
  }

  void matmul() {
    accelcpu_matmul o = {};
    o.m = pick(1, 30), o.n = pick(1, 40), o.k = pick(1, 300), o.alpha = 1, o.rank = 1, o.batch[0] = pick(1, 3);
    const bool ta = pick(0, 1), tb = pick(0, 1);
    o.a_row = ta ? 1 : o.k, o.a_col = ta ? o.m : 1, o.b_row = tb ? 1 : o.n, o.b_col = tb ? o.k : 1, o.c_row = o.n;
    o.a_batch[0] = o.m * o.k, o.b_batch[0] = 0, o.c_batch[0] = o.m * o.n;
    const float *a = floats(o.batch[0] * o.m * o.k, &o.a), *b = floats(o.k * o.n, &o.b);
    float* c = floats(o.batch[0] * o.m * o.n, &o.c);
    run(ACCELCPU_OP_MATMUL, o);
    for (int64_t x = 0; x < o.batch[0]; x++) {
      for (int64_t i = 0; i < o.m; i++) {
        for (int64_t j = 0; j < o.n; j++) {
          double sum = 0;
          for (int64_t k = 0; k < o.k; k++) sum += double{a[x * o.m * o.k + i * o.a_row + k * o.a_col]} * b[k * o.b_row + j * o.b_col];
          expect("matmul", c[(x * o.m + i) * o.n + j], sum, 1e-4);
        }
      }
    }
  }

  void attention() {
    accelcpu_attention o = {};
    o.batch = pick(1, 2), o.kv_heads = pick(1, 2), o.heads = o.kv_heads * pick(1, 2), o.q_len = pick(1, 50), o.kv_len = pick(1, 200);
    o.head_dim = pick(1, 40), o.v_dim = pick(1, 40), o.scale = 0.2f, o.causal = static_cast<uint32_t>(pick(0, 1)), o.offset = pick(0, 200);
    auto strides = [](int64_t* s, int64_t length, int64_t heads, int64_t width) { s[0] = length * heads * width, s[1] = heads * width, s[2] = width; };
    strides(o.q_stride, o.q_len, o.heads, o.head_dim);
    strides(o.k_stride, o.kv_len, o.kv_heads, o.head_dim);
    strides(o.v_stride, o.kv_len, o.kv_heads, o.v_dim);
    strides(o.o_stride, o.q_len, o.heads, o.v_dim);
    const float *q = floats(o.batch * o.q_stride[0], &o.q), *k = floats(o.batch * o.k_stride[0], &o.k), *v = floats(o.batch * o.v_stride[0], &o.v);
    float* y = floats(o.batch * o.o_stride[0], &o.o);
    run(ACCELCPU_OP_ATTENTION, o);
    std::vector<double> p(static_cast<size_t>(o.kv_len));
    for (int64_t row = 0; row < o.batch * o.q_len * o.heads; row++) {
      const int64_t b = row / (o.q_len * o.heads), i = row / o.heads % o.q_len, h = row % o.heads, g = h / (o.heads / o.kv_heads);
      const int64_t end = o.causal ? std::min(o.kv_len, i + o.offset + 1) : o.kv_len;
      double total = 0;
      for (int64_t j = 0; j < end; j++) {
        double s = 0;
        for (int64_t d = 0; d < o.head_dim; d++) s += double{q[b * o.q_stride[0] + i * o.q_stride[1] + h * o.q_stride[2] + d]} * k[b * o.k_stride[0] + j * o.k_stride[1] + g * o.k_stride[2] + d];
        total += p[static_cast<size_t>(j)] = std::exp(s * o.scale);
      }
      for (int64_t d = 0; d < o.v_dim; d++) {
        double s = 0;
        for (int64_t j = 0; j < end; j++) s += p[static_cast<size_t>(j)] / total * v[b * o.v_stride[0] + j * o.v_stride[1] + g * o.v_stride[2] + d];
        expect("attention", y[b * o.o_stride[0] + i * o.o_stride[1] + h * o.o_stride[2] + d], s, 2e-5);
      }
    }
  }

  void rows() {
    accelcpu_norm n = {};
    accelcpu_softmax s = {};
    n.rows = pick(1, 60), n.cols = pick(1, 1000), n.ldx = n.ldr = n.lds = n.ldy = n.cols, n.eps = 1e-5f;
    const float *x = floats(n.rows * n.cols, &n.x), *gamma = floats(n.cols, &n.gamma);
    float* y = floats(n.rows * n.cols, &n.y);
    run(ACCELCPU_OP_NORM, n);
    for (int64_t r = 0; r < n.rows; r++) {
      double mean = 0, squares = 0;
      for (int64_t j = 0; j < n.cols; j++) mean += x[r * n.cols + j] / static_cast<double>(n.cols);
      for (int64_t j = 0; j < n.cols; j++) squares += (x[r * n.cols + j] - mean) * (x[r * n.cols + j] - mean);
      const double factor = 1 / std::sqrt(squares / static_cast<double>(n.cols) + n.eps);
      for (int64_t j = 0; j < n.cols; j++) expect("norm", y[r * n.cols + j], (x[r * n.cols + j] - mean) * factor * gamma[j], 2e-5);
    }
    s.x = n.x, s.y = n.y, s.outer = n.rows, s.axis = n.cols, s.inner = 1;
    if (pick(0, 1)) s.inner = s.axis, s.axis = s.outer, s.outer = 1;
    run(ACCELCPU_OP_SOFTMAX, s);
    for (int64_t at = 0; at < s.outer * s.inner; at++) {
      double total = 0;
      for (int64_t j = 0; j < s.axis; j++) total += y[(at / s.inner * s.axis + j) * s.inner + at % s.inner];
      expect("sum of softmax", static_cast<float>(total), 1, 1e-4);
    }
  }

  // A convolution of any shape, and a pool over what it gives.
  void conv() {
    accelcpu_conv o = {};
    accelcpu_pack p = {};
    const bool alone = pick(0, 2) == 0;  // channels with filters of their own
    o.batch = pick(1, 2), o.groups = alone ? pick(2, 5) : pick(1, 2), o.channels = alone ? 1 : pick(2, 40), o.filters = alone ? pick(1, 2) : pick(1, 40);
    int64_t places = 1, area = 1, taps = 1;
    for (int i = 0; i < 3; i++) {
      o.kernel[i] = i == 0 ? 1 : pick(1, 4), o.stride[i] = pick(1, 3), o.dilation[i] = pick(1, 2), o.pad[i] = pick(-1, 2);
      o.in[i] = i == 0 ? pick(1, 2) : pick(3, 24), o.out[i] = pick(1, i == 0 ? 2 : 20);
      places *= o.out[i], area *= o.in[i], taps *= o.kernel[i];
    }
    const int64_t filters = o.groups * o.filters, depth = o.channels * taps;
    o.y_stride[0] = filters * places, o.y_stride[1] = places, o.y_stride[2] = o.out[1] * o.out[2], o.y_stride[3] = o.out[2], o.y_stride[4] = 1;
    o.activation = ACCELCPU_ACT_RELU;
    const float *x = floats(o.batch * o.groups * o.channels * area, &o.x), *w = floats(filters * depth, &o.w), *bias = floats(filters, &o.bias);
    if (!alone) {
      const int64_t size = accelcpu_packed_bytes(runner, ACCELCPU_PACK_F32, o.filters, depth);
      p.src = o.w, p.n = o.filters, p.k = depth, p.n_stride = depth, p.k_stride = 1;
      bytes(o.groups * size, &p.dst);
      o.w = p.dst;
      for (int64_t g = 0; g < o.groups; g++, p.src.offset += o.filters * depth * 4, p.dst.offset += size) run(ACCELCPU_OP_PACK, p);
    }
    const float* y = floats(o.batch * filters * places, &o.y);
    run(ACCELCPU_OP_CONV, o);
    for (int64_t at = 0; at < o.batch * filters * places; at++) {
      const int64_t f = at / places % filters, b = at / places / filters;
      double sum = bias[f];
      for (int64_t k = 0; k < depth; k++) {
        const int64_t t = k % taps, tap[3] = {t / o.kernel[2] / o.kernel[1], t / o.kernel[2] % o.kernel[1], t % o.kernel[2]};
        const int64_t place[3] = {at % places / o.out[2] / o.out[1], at / o.out[2] % o.out[1], at % o.out[2]};
        int64_t from = (b * o.groups + f / o.filters) * o.channels + k / taps;
        bool inside = true;
        for (int i = 0; i < 3; i++) {
          const int64_t v = place[i] * o.stride[i] - o.pad[i] + tap[i] * o.dilation[i];
          inside &= v >= 0 && v < o.in[i];
          from = from * o.in[i] + v;
        }
        if (inside) sum += double{w[f * depth + k]} * x[from];
      }
      expect("conv", y[at], sum > 0 ? sum : 0, 2e-4);
    }
    accelcpu_pool q = {};
    q.planes = o.batch * filters, q.x = o.y, q.pool = static_cast<uint32_t>(pick(0, 2));
    int64_t windows = q.planes;
    for (int i = 0; i < 3; i++) {
      q.in[i] = o.out[i], q.kernel[i] = pick(1, 3), q.stride[i] = pick(1, 3), q.dilation[i] = 1, q.pad[i] = q.pad_end[i] = pick(0, 1), q.out[i] = pick(1, 9);
      windows *= q.out[i];
    }
    floats(windows, &q.y);
    run(ACCELCPU_OP_POOL, q);

    accelcpu_resample r = {};
    r.x = o.x, r.outer = o.batch * o.groups * o.channels, r.in = area, r.inner = 1, r.out = pick(1, 40), r.taps = pick(1, 4);
    if (pick(0, 1)) r.in = r.outer, r.outer = 1, r.inner = area;
    auto* index = reinterpret_cast<int32_t*>(bytes(r.out * r.taps * 4, &r.index));
    for (int64_t i = 0; i < r.out * r.taps; i++) index[i] = static_cast<int32_t>(pick(0, r.in - 1));
    floats(r.out * r.taps, &r.weight), floats(r.outer * r.out * r.inner, &r.y);
    run(ACCELCPU_OP_RESAMPLE, r);

    accelcpu_groupnorm n = {};
    n.x = n.y = o.y, n.scale = n.bias = o.bias, n.batch = o.batch, n.groups = o.groups, n.channels = o.filters, n.inner = places, n.eps = 1e-5f;
    run(ACCELCPU_OP_GROUPNORM, n);
  }

  // Two sequences in pages of any type; compared where those are f32 and nobody else's.
  void paged() {
    accelcpu_paged o = {};
    const uint32_t types[] = {ACCELCPU_F32, ACCELCPU_F16, ACCELCPU_BF16, ACCELCPU_I8, ACCELCPU_U8};
    o.k_type = types[pick(0, 4)], o.v_type = pick(0, 1) ? o.k_type : types[pick(0, 4)];
    o.kv_heads = pick(1, 3), o.heads = o.kv_heads * pick(1, 5), o.head_dim = 2 * pick(1, 40), o.v_dim = 2 * pick(1, 40), o.page_size = pick(1, 9);
    const int64_t few[] = {pick(1, 3), pick(1, 70)}, length[] = {few[0] + pick(0, 600), few[1] + pick(0, 200)};
    o.tokens = few[0] + few[1], o.table_width = 800, o.sequences = 2, o.pages = (length[0] + length[1]) / o.page_size + 3, o.causal = 1, o.scale = 0.3f;
    o.ldq = o.heads * o.head_dim, o.ldk = o.kv_heads * o.head_dim, o.ldv = o.kv_heads * o.v_dim;
    if (pick(0, 2) == 0) o.window = pick(1, 300);
    auto* table = reinterpret_cast<int64_t*>(bytes(2 * o.table_width * 8, &o.page_tables));
    auto* lengths = reinterpret_cast<int64_t*>(bytes(2 * 8, &o.lengths));
    auto* starts = reinterpret_cast<int64_t*>(bytes(3 * 8, &o.starts));
    auto* slots = reinterpret_cast<int64_t*>(bytes(o.tokens * 8, &o.slots));
    std::memset(table, 0, static_cast<size_t>(2 * o.table_width) * 8);
    starts[0] = 0, starts[1] = few[0], starts[2] = o.tokens;
    int64_t page = o.pages;
    for (int64_t b = 0; b < 2; b++) {
      lengths[b] = length[b];
      for (int64_t i = 0; i * o.page_size < length[b]; i++) table[b * o.table_width + i] = --page;
      for (int64_t t = 0; t < few[b]; t++) {
        const int64_t at = length[b] - few[b] + t;
        slots[starts[b] + t] = table[b * o.table_width + at / o.page_size] * o.page_size + at % o.page_size;
      }
    }
    const auto pool = [&](uint32_t type, int64_t width, accelcpu_ref* pages, accelcpu_ref* scales) {
      const int64_t rows = o.pages * o.page_size * o.kv_heads;
      if (type == ACCELCPU_F32) return floats(rows * width, pages);
      std::memset(bytes(rows * (type == ACCELCPU_I8 ? width : type == ACCELCPU_U8 ? width / 2 : width * 2), pages), 0x31, static_cast<size_t>(rows * (type == ACCELCPU_U8 ? width / 2 : width)));
      if (type == ACCELCPU_I8 || type == ACCELCPU_U8) std::memset(bytes(rows * 2, scales), 0x20, static_cast<size_t>(rows) * 2);
      return static_cast<float*>(nullptr);
    };
    const float *keys = pool(o.k_type, o.head_dim, &o.k_pages, &o.k_scales), *values = pool(o.v_type, o.v_dim, &o.v_pages, &o.v_scales);
    const float* q = floats(o.tokens * o.ldq, &o.q);
    floats(o.tokens * o.ldk, &o.k), floats(o.tokens * o.ldv, &o.v);
    const float* out = floats(o.tokens * o.heads * o.v_dim, &o.o);
    run(ACCELCPU_OP_PAGED, o);
    if (!keys || !values) return;
    const int64_t b = pick(0, 1), t = pick(0, few[b] - 1), h = pick(0, o.heads - 1), kv = h / (o.heads / o.kv_heads), last = length[b] - few[b] + t;
    const auto row = [&](int64_t j) { return (table[b * o.table_width + j / o.page_size] * o.page_size + j % o.page_size) * o.kv_heads + kv; };
    std::vector<double> weight;
    const int64_t first = o.window > 0 && last >= o.window ? last - o.window + 1 : 0;
    double total = 0;
    for (int64_t j = first; j <= last; j++) {
      double x = 0;
      for (int64_t i = 0; i < o.head_dim; i++) x += double{q[(starts[b] + t) * o.ldq + h * o.head_dim + i]} * keys[row(j) * o.head_dim + i];
      weight.push_back(std::exp(x * o.scale));
      total += weight.back();
    }
    for (int64_t i = 0; i < o.v_dim; i++) {
      double sum = 0;
      for (int64_t j = first; j <= last; j++) sum += weight[static_cast<size_t>(j - first)] * values[row(j) * o.v_dim + i];
      expect("paged", out[((starts[b] + t) * o.heads + h) * o.v_dim + i], sum / total, 1e-4);
    }
  }

  void rope() {
    accelcpu_rope o = {};
    o.batch = pick(1, 2), o.tokens = pick(1, 90), o.heads = pick(1, 9), o.dim = pick(2, 70), o.half = pick(1, o.dim / 2), o.interleaved = static_cast<uint32_t>(pick(0, 1));
    o.x_stride[0] = o.y_stride[0] = o.tokens * o.heads * o.dim, o.x_stride[1] = o.y_stride[1] = o.heads * o.dim, o.x_stride[2] = o.y_stride[2] = o.dim;
    const float *x = floats(o.batch * o.x_stride[0], &o.x), *cosine = floats(o.batch * o.tokens * o.half, &o.cos), *sine = floats(o.batch * o.tokens * o.half, &o.sin);
    const float* y = floats(o.batch * o.x_stride[0], &o.y);
    run(ACCELCPU_OP_ROPE, o);
    for (int64_t row = 0; row < o.batch * o.tokens * o.heads; row++) {
      for (int64_t i = 0; i < o.half; i++) {
        const int64_t a = row * o.dim + (o.interleaved ? 2 * i : i), b = row * o.dim + (o.interleaved ? 2 * i + 1 : i + o.half), angle = row / o.heads * o.half + i;
        expect("rope", y[a], double{cosine[angle]} * x[a] - double{sine[angle]} * x[b], 1e-5);
        expect("rope", y[b], double{sine[angle]} * x[a] + double{cosine[angle]} * x[b], 1e-5);
      }
      for (int64_t i = 2 * o.half; i < o.dim; i++) expect("rope", y[row * o.dim + i], x[row * o.dim + i], 0);
    }
  }

  // No comparison: whether they stay where they belong.
  void rest() {
    accelcpu_map m = {};
    m.compute = ACCELCPU_F32, m.rank = 2, m.inputs = 2, m.steps = 2, m.dims[0] = pick(1, 30), m.dims[1] = pick(1, 1200);
    m.in[0].dtype = m.out.dtype = ACCELCPU_F32, m.in[1].dtype = ACCELCPU_I64;
    m.in[0].stride[0] = m.out.stride[0] = m.dims[1], m.in[0].stride[1] = m.out.stride[1] = m.in[1].stride[1] = 1;
    floats(m.dims[0] * m.dims[1], &m.in[0].data);
    std::memset(bytes(m.dims[1] * 8, &m.in[1].data), 1, static_cast<size_t>(m.dims[1]) * 8);
    floats(m.dims[0] * m.dims[1], &m.out.data);
    m.step[0] = {ACCELCPU_FN_GELU_ERF, 0, 0, 0, 0, 0};
    m.step[1] = {ACCELCPU_FN_MUL, 8, 1, 0, 0, 0};
    run(ACCELCPU_OP_MAP, m);

    accelcpu_reduce r = {};
    r.x = m.in[0].data, r.outer = m.dims[0], r.axis = m.dims[1], r.inner = 1, r.reduce = static_cast<uint32_t>(pick(0, 7));
    if (pick(0, 1)) r.outer = 1, r.axis = m.dims[0], r.inner = m.dims[1];
    floats(r.outer * r.inner, &r.y);
    run(ACCELCPU_OP_REDUCE, r);

    accelcpu_copy c = {};
    c.src = m.in[0].data, c.dst = m.out.data, c.rank = 2, c.elem_bytes = 4, c.dims[0] = m.dims[1], c.dims[1] = m.dims[0];
    c.src_stride[0] = 1, c.src_stride[1] = m.dims[1], c.dst_stride[0] = m.dims[0], c.dst_stride[1] = 1;
    run(ACCELCPU_OP_COPY, c);

    accelcpu_embed e = {};
    e.tables = 2, e.count = pick(1, 50), e.width = e.ldy = pick(1, 100), e.ids_type = ACCELCPU_I32, e.norm = ACCELCPU_NORM_LAYER, e.eps = 1e-5f;
    floats(7 * e.width, &e.table[0]), floats(5 * e.width, &e.table[1]), floats(e.count * e.width, &e.y);
    auto* ids = reinterpret_cast<int32_t*>(bytes(e.count * 4, &e.ids[0]));
    for (int64_t i = 0; i < e.count; i++) ids[i] = static_cast<int32_t>(pick(0, 6));
    e.table_rows[0] = 7, e.table_rows[1] = e.period[1] = 5;
    run(ACCELCPU_OP_EMBED, e);

    accelcpu_gather g = {};
    g.data = e.table[0], g.index = e.ids[0], g.y = e.y, g.outer = 1, g.axis = 7, g.inner = e.width * 4, g.count = e.count, g.index_type = ACCELCPU_I32;
    run(ACCELCPU_OP_GATHER, g);

    const uint32_t types[] = {ACCELCPU_F16, ACCELCPU_BF16, ACCELCPU_I64, ACCELCPU_BOOL, ACCELCPU_F64};
    accelcpu_cast t = {};
    t.src = m.in[0].data, t.n = m.dims[0] * m.dims[1], t.src_type = ACCELCPU_F32, t.dst_type = types[pick(0, 4)];
    const int64_t sizes[] = {2, 2, 8, 1, 8};
    for (int i = 0; i < 5; i++) {
      if (types[i] == t.dst_type) bytes(t.n * sizes[i], &t.dst);
    }
    run(ACCELCPU_OP_CAST, t);
  }
};

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 20;
  accelcpu_isa sets[16];
  const int count = accelcpu_isas(sets, 16);
  for (int s = 0; s < count; s++) {
    if (!sets[s].supported) continue;
    accelcpu_config config = {sets[s].name, 3, 0, -1, 0};
    accelcpu_runner* runner = nullptr;
    accelcpu_result result;
    if (accelcpu_create(&config, &runner, &result) != ACCELCPU_OK) {
      std::fprintf(stderr, "%s\n", result.text);
      return 1;
    }
    std::vector<std::thread> threads;
    for (unsigned seed = 0; seed < 3; seed++) {
      threads.emplace_back([=] {
        Lab lab{runner, std::mt19937(seed), {}};
        for (int i = 0; i < rounds; i++) {
          lab.gemm(), lab.gemm_blocks(), lab.matmul(), lab.attention(), lab.rows(), lab.conv(), lab.paged(), lab.rope(), lab.rest();
          lab.clear();
        }
      });
    }
    for (auto& t : threads) t.join();
    accelcpu_destroy(runner);
    std::printf("%s: %s\n", sets[s].name, failures ? "wrong" : "right");
  }
  return failures != 0;
}
