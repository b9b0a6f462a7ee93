// Normalisation, softmax, embedding and reduction.
#ifndef ACCELCPU_ROWS_H
#define ACCELCPU_ROWS_H

#include "math.h"
#include "../kernels.h"

namespace accelcpu {
namespace {

// Elements that a task should have at least, for its start to cost nothing beside it.
constexpr int64_t kGrain = 1 << 14;

// v with the lanes from n on replaced.
INLINE Vec keep(Vec v, int n, float rest) {
  if (n < kLanes) {
    for (int l = n; l < kLanes; l++) v[l] = rest;
  }
  return v;
}

// The sum of f(j, n) over a row, whose unused lanes are 0: in float over a stretch, in double
// over the stretches, so that long rows lose nothing.
template <class F>
INLINE double sum_along(int64_t cols, F f) {
  constexpr int64_t kStretch = 512 * kLanes;
  double total = 0;
  for (int64_t begin = 0; begin < cols; begin += kStretch) {
    const int64_t end = min_of(cols, begin + kStretch);
    Vec acc[4] = {};
    int64_t j = begin;
    for (; j + 4 * kLanes <= end; j += 4 * kLanes) {
      for (int i = 0; i < 4; i++) acc[i] += f(j + i * kLanes, kLanes);
    }
    for (; j < end; j += kLanes) acc[0] += f(j, static_cast<int>(min_of<int64_t>(kLanes, end - j)));
    total += sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  }
  return total;
}

// y = norm(s) * gamma + beta; s may be y.
INLINE void norm_row(uint32_t kind, float eps, int64_t cols, const float* s, const float* gamma, const float* beta, float* y) {
  float mean = 0.0f, factor;
  if (kind == ACCELCPU_NORM_LAYER) {
    mean = static_cast<float>(sum_along(cols, [&](int64_t j, int n) { return load_up_to(s + j, n); }) / static_cast<double>(cols));
    const double squares = sum_along(cols, [&](int64_t j, int n) {
      const Vec c = keep(load_up_to(s + j, n) - mean, n, 0.0f);
      return c * c;
    });
    factor = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(cols) + eps));
  } else {
    const double squares = sum_along(cols, [&](int64_t j, int n) {
      const Vec c = load_up_to(s + j, n);
      return c * c;
    });
    const double length = std::sqrt(squares);
    factor = static_cast<float>(kind == ACCELCPU_NORM_RMS ? 1.0 / std::sqrt(squares / static_cast<double>(cols) + eps) : 1.0 / (length < eps ? eps : length));
  }
  along(cols, [&](int64_t j, int n) {
    Vec v = (load_up_to(s + j, n) - mean) * factor;
    if (gamma) v *= load_up_to(gamma + j, n);
    if (beta) v += load_up_to(beta + j, n);
    store_up_to(y + j, v, n);
  });
}

void norm(Workers& w, const accelcpu_norm& o, const NormData& d) {
  if (o.cols == 0) return;
  const int64_t rows = max_of<int64_t>(1, min_of(o.rows, kGrain / o.cols));
  w.each(ceil_div(o.rows, rows), [&](int64_t task, void*) {
    for (int64_t row = task * rows; row < min_of(o.rows, (task + 1) * rows); row++) {
      const float* s = d.x + row * o.ldx;
      float* y = d.y + row * o.ldy;
      if (d.residual || d.sum) {
        const float* r = d.residual ? d.residual + row * o.ldr : nullptr;
        float* to = d.sum ? d.sum + row * o.lds : y;
        along(o.cols, [&](int64_t j, int n) {
          Vec v = load_up_to(s + j, n);
          if (r) v += load_up_to(r + j, n);
          store_up_to(to + j, v, n);
        });
        s = to;
      }
      norm_row(o.norm, o.eps, o.cols, s, d.gamma, d.beta, y);
    }
  });
}

void softmax(Workers& w, const accelcpu_softmax& o, const SoftmaxData& d) {
  if (o.axis == 0 || o.outer == 0 || o.inner == 0) return;
  const bool logarithm = o.log != 0;
  if (o.inner == 1) {
    const int64_t rows = max_of<int64_t>(1, min_of(o.outer, kGrain / 4 / o.axis));
    w.each(ceil_div(o.outer, rows), [&](int64_t task, void*) {
      for (int64_t row = task * rows; row < min_of(o.outer, (task + 1) * rows); row++) {
        const float* x = d.x + row * o.axis;
        float* y = d.y + row * o.axis;
        Vec high = splat(-INFINITY);
        along(o.axis, [&](int64_t j, int n) { high = max(high, keep(load_up_to(x + j, n), n, -INFINITY)); });
        const float top = greatest(high);
        const double total = sum_along(o.axis, [&](int64_t j, int n) {
          const Vec e = keep(exp_nonpositive(load_up_to(x + j, n) - top), n, 0.0f);
          if (!logarithm) store_up_to(y + j, e, n);
          return e;
        });
        if (logarithm) {
          const float shift = static_cast<float>(std::log(total));
          along(o.axis, [&](int64_t j, int n) { store_up_to(y + j, load_up_to(x + j, n) - top - shift, n); });
        } else {
          const float factor = static_cast<float>(1.0 / total);
          along(o.axis, [&](int64_t j, int n) { store_up_to(y + j, load_up_to(y + j, n) * factor, n); });
        }
      }
    });
    return;
  }
  // Columns side by side, a vector of them at a time.
  const int64_t vectors = ceil_div(o.inner, kLanes);
  w.each(o.outer * vectors, [&](int64_t task, void*) {
    const int64_t j = task % vectors * kLanes, at = task / vectors * o.axis * o.inner + j;
    const int n = static_cast<int>(min_of<int64_t>(kLanes, o.inner - j));
    const float* x = d.x + at;
    float* y = d.y + at;
    Vec high = splat(-INFINITY), total = {};
    for (int64_t i = 0; i < o.axis; i++) high = max(high, load_up_to(x + i * o.inner, n));
    for (int64_t i = 0; i < o.axis; i++) {
      const Vec e = exp_nonpositive(load_up_to(x + i * o.inner, n) - high);
      if (!logarithm) store_up_to(y + i * o.inner, e, n);
      total += e;
    }
    if (logarithm) {
      const Vec shift = log(total);
      for (int64_t i = 0; i < o.axis; i++) store_up_to(y + i * o.inner, load_up_to(x + i * o.inner, n) - high - shift, n);
    } else {
      for (int64_t i = 0; i < o.axis; i++) store_up_to(y + i * o.inner, load_up_to(y + i * o.inner, n) / total, n);
    }
  });
}

// The indices were checked.
void embed(Workers& w, const accelcpu_embed& o, const EmbedData& d) {
  if (o.width == 0) return;
  const int64_t rows = max_of<int64_t>(1, min_of(o.count, kGrain / o.width));
  w.each(ceil_div(o.count, rows), [&](int64_t task, void*) {
    for (int64_t row = task * rows; row < min_of(o.count, (task + 1) * rows); row++) {
      const float* from[ACCELCPU_EMBED_TABLES];
      for (uint32_t t = 0; t < o.tables; t++) {
        const int64_t id = !d.ids[t]                       ? row % o.period[t]
                           : o.ids_type == ACCELCPU_I64 ? static_cast<const int64_t*>(d.ids[t])[row]
                                                           : static_cast<const int32_t*>(d.ids[t])[row];
        from[t] = d.table[t] + id * o.width;
      }
      float* y = d.y + row * o.ldy;
      along(o.width, [&](int64_t j, int n) {
        Vec v = load_up_to(from[0] + j, n);
        for (uint32_t t = 1; t < o.tables; t++) v += load_up_to(from[t] + j, n);
        store_up_to(y + j, v, n);
      });
      if (o.norm != ACCELCPU_EMBED_PLAIN) norm_row(o.norm, o.eps, o.width, y, d.gamma, d.beta, y);
    }
  });
}

// ---- Reductions ----

// What each element contributes, and how contributions are joined.
template <int Kind>
struct Reduction {
  static constexpr bool kSums = Kind != ACCELCPU_REDUCE_MAX && Kind != ACCELCPU_REDUCE_MIN && Kind != ACCELCPU_REDUCE_PROD;
  static constexpr float kNeutral = Kind == ACCELCPU_REDUCE_MAX ? -INFINITY : Kind == ACCELCPU_REDUCE_MIN ? INFINITY : Kind == ACCELCPU_REDUCE_PROD ? 1.0f : 0.0f;
  static INLINE Vec map(Vec x) {
    if (Kind == ACCELCPU_REDUCE_SUMSQ || Kind == ACCELCPU_REDUCE_L2) return x * x;
    return Kind == ACCELCPU_REDUCE_L1 ? abs(x) : x;
  }
  static INLINE Vec join(Vec a, Vec b) {
    return Kind == ACCELCPU_REDUCE_MAX ? max_nan(a, b) : Kind == ACCELCPU_REDUCE_MIN ? min_nan(a, b) : Kind == ACCELCPU_REDUCE_PROD ? a * b : a + b;
  }
};

template <int Kind>
float reduce_row(const accelcpu_reduce& o, const float* x, const float* weight) {
  using R = Reduction<Kind>;
  if (!R::kSums) {
    Vec acc = splat(R::kNeutral);
    along(o.axis, [&](int64_t j, int n) { acc = R::join(acc, keep(load_up_to(x + j, n), n, R::kNeutral)); });
    return fold(acc, [](Vec a, Vec b) { return R::join(a, b); });
  }
  double total = sum_along(o.axis, [&](int64_t j, int n) {
    const Vec v = R::map(load_up_to(x + j, n));
    return weight ? v * load_up_to(weight + j, n) : v;
  });
  if (Kind == ACCELCPU_REDUCE_MEAN) {
    double count = static_cast<double>(o.axis);
    if (weight) {
      count = sum_along(o.axis, [&](int64_t j, int n) { return load_up_to(weight + j, n); });
      count = count < o.eps ? o.eps : count;
    }
    total /= count;
  }
  return static_cast<float>(Kind == ACCELCPU_REDUCE_L2 ? std::sqrt(total) : total);
}

// N vectors of columns, the last one with n lanes.
template <int Kind, int N>
void reduce_columns(const accelcpu_reduce& o, const float* x, const float* weight, float* y, int n) {
  using R = Reduction<Kind>;
  constexpr int64_t kStretch = 64;  // rows added up before they join the total: errors grow with its square root
  Vec total[N];
  for (int c = 0; c < N; c++) total[c] = splat(R::kNeutral);
  float weights = 0.0f;
  for (int64_t begin = 0; begin < o.axis; begin += kStretch) {
    const int64_t end = min_of(o.axis, begin + kStretch);
    Vec acc[N];
    for (int c = 0; c < N; c++) acc[c] = splat(R::kNeutral);
    float some = 0.0f;
    for (int64_t i = begin; i < end; i++) {
      const float factor = weight ? weight[i] : 1.0f;
      some += factor;
      for (int c = 0; c < N; c++) {
        const float* p = x + i * o.inner + c * kLanes;
        const Vec v = R::map(c + 1 < N ? load(p) : load_up_to(p, n));
        acc[c] = R::join(acc[c], weight ? v * factor : v);
      }
    }
    for (int c = 0; c < N; c++) total[c] = R::join(total[c], acc[c]);
    weights += some;
  }
  for (int c = 0; c < N; c++) {
    Vec v = total[c];
    if (Kind == ACCELCPU_REDUCE_MEAN) v = v / (weight ? max_of(weights, o.eps) : static_cast<float>(o.axis));
    if (Kind == ACCELCPU_REDUCE_L2) v = sqrt(v);
    store_up_to(y + c * kLanes, v, c + 1 < N ? kLanes : n);
  }
}

template <int Kind>
void reduce_kind(Workers& w, const accelcpu_reduce& o, const ReduceData& d) {
  if (o.inner == 1) {
    const int64_t rows = max_of<int64_t>(1, kGrain / max_of<int64_t>(1, o.axis));
    w.each(ceil_div(o.outer, rows), [&](int64_t task, void*) {
      for (int64_t row = task * rows; row < min_of(o.outer, (task + 1) * rows); row++)
        d.y[row] = reduce_row<Kind>(o, d.x + row * o.axis, d.weight ? d.weight + row * o.axis : nullptr);
    });
    return;
  }
  constexpr int kWide = 4;
  const int64_t groups = ceil_div(o.inner, kWide * kLanes);
  w.each(o.outer * groups, [&](int64_t task, void*) {
    const int64_t row = task / groups, first = task % groups * kWide * kLanes, last = min_of(o.inner, first + kWide * kLanes);
    const float* weight = d.weight ? d.weight + row * o.axis : nullptr;
    const float* x = d.x + row * o.axis * o.inner;
    float* y = d.y + row * o.inner;
    if (last - first == kWide * kLanes) return reduce_columns<Kind, kWide>(o, x + first, weight, y + first, kLanes);
    for (int64_t j = first; j < last; j += kLanes) reduce_columns<Kind, 1>(o, x + j, weight, y + j, static_cast<int>(min_of<int64_t>(kLanes, last - j)));
  });
}

void reduce(Workers& w, const accelcpu_reduce& o, const ReduceData& d) {
  switch (o.reduce) {
    case ACCELCPU_REDUCE_SUM: return reduce_kind<ACCELCPU_REDUCE_SUM>(w, o, d);
    case ACCELCPU_REDUCE_MEAN: return reduce_kind<ACCELCPU_REDUCE_MEAN>(w, o, d);
    case ACCELCPU_REDUCE_MAX: return reduce_kind<ACCELCPU_REDUCE_MAX>(w, o, d);
    case ACCELCPU_REDUCE_MIN: return reduce_kind<ACCELCPU_REDUCE_MIN>(w, o, d);
    case ACCELCPU_REDUCE_PROD: return reduce_kind<ACCELCPU_REDUCE_PROD>(w, o, d);
    case ACCELCPU_REDUCE_SUMSQ: return reduce_kind<ACCELCPU_REDUCE_SUMSQ>(w, o, d);
    case ACCELCPU_REDUCE_L2: return reduce_kind<ACCELCPU_REDUCE_L2>(w, o, d);
    case ACCELCPU_REDUCE_L1: return reduce_kind<ACCELCPU_REDUCE_L1>(w, o, d);
  }
}

}  // namespace
}  // namespace accelcpu
#endif
