// Pooling, resampling along an axis, and normalisation of groups of channels.
#ifndef ACCELCPU_IMAGE_H
#define ACCELCPU_IMAGE_H

#include "lines.h"
#include "math.h"
#include "rows.h"

namespace accelcpu {
namespace {

// acc = the taps of one line joined with acc, for Count vectors of columns.
template <bool Max, int Count>
INLINE void pool_columns(const Lines& lines, int64_t line, int64_t column, float* acc) {
  Vec v[Count];
  UNROLL for (int i = 0; i < Count; i++) v[i] = load(acc + column + i * kLanes);
  for (int64_t kx = 0; kx < lines.kernel; kx++) {
    const float* src = lines.at(line, kx) + column;
    UNROLL for (int i = 0; i < Count; i++) {
      const Vec x = load(src + i * kLanes);
      v[i] = Max ? max_nan(v[i], x) : v[i] + x;
    }
  }
  UNROLL for (int i = 0; i < Count; i++) store(acc + column + i * kLanes, v[i]);
}
template <bool Max>
INLINE void pool_line(const Lines& lines, int64_t line, int64_t columns, float* acc) {
  int64_t j = 0;
  for (; j + 3 * kLanes < columns; j += 4 * kLanes) pool_columns<Max, 4>(lines, line, j, acc);
  for (; j < columns; j += kLanes) pool_columns<Max, 1>(lines, line, j, acc);
}

// Taps that an average along one dimension counts at a place.
INLINE int64_t averaged(const accelcpu_pool& o, int i, int64_t at) {
  if (o.pool == ACCELCPU_POOL_AVERAGE_PADDED) return window(at, o.stride[i], 0, o.dilation[i], o.kernel[i], o.in[i] + o.pad[i] + o.pad_end[i]).count();
  return window(at, o.stride[i], o.pad[i], o.dilation[i], o.kernel[i], o.in[i]).count();
}

template <bool Max>
void pool_planes(Workers& w, const accelcpu_pool& o, const PoolData& d) {
  const int64_t x_plane = o.in[0] * o.in[1] * o.in[2], y_plane = o.out[0] * o.out[1] * o.out[2];
  const float start = Max ? -INFINITY : 0.0f;
  const LinePlan plan(o, 1, w.threads(), o.planes);
  w.each(o.planes * plan.tasks, [&](int64_t task, void* scratch) {
    const float* x = d.x + task / plan.tasks * x_plane;
    float* y = d.y + task / plan.tasks * y_plane;
    if (!plan.fits) {
      plan.each_place(o, task % plan.tasks, [&](const int64_t* at) {
        Window win[3];
        for (int i = 0; i < 3; i++) win[i] = window(at[i], o.stride[i], o.pad[i], o.dilation[i], o.kernel[i], o.in[i]);
        Vec v = splat(start);
        for (int64_t a = win[0].first; a < win[0].end; a++) {
          for (int64_t b = win[1].first; b < win[1].end; b++) {
            const float* row = x + ((win[0].from + a * o.dilation[0]) * o.in[1] + win[1].from + b * o.dilation[1]) * o.in[2];
            for (int64_t c = win[2].first; c < win[2].end; c++) {
              const Vec t = splat(row[win[2].from + c * o.dilation[2]]);
              v = Max ? max_nan(v, t) : v + t;
            }
          }
        }
        if (!Max) v /= static_cast<float>(averaged(o, 0, at[0]) * averaged(o, 1, at[1]) * averaged(o, 2, at[2]));
        y[(at[0] * o.out[1] + at[1]) * o.out[2] + at[2]] = v[0];
      });
      return;
    }
    float* const row = static_cast<float*>(scratch);
    plan.each_band(o, task % plan.tasks, x, start, row + plan.out_floats, [&](const Lines& lines, int64_t z, int64_t y0, int64_t y1, int64_t x0, int64_t columns) {
      float counts[kLineColumns];
      if (!Max) {
        for (int64_t j = 0; j < columns; j++) counts[j] = static_cast<float>(averaged(o, 2, x0 + j));
      }
      for (int64_t at = y0; at < y1; at++) {
        for (int64_t j = 0; j < columns; j += kLanes) store(row + j, splat(start));
        lines.each_row(o, z, at, [&](int64_t, int64_t, int64_t line) { pool_line<Max>(lines, line, columns, row); });
        float* out = y + (z * o.out[1] + at) * o.out[2] + x0;
        if (Max) {
          std::memcpy(out, row, static_cast<size_t>(columns) * 4);
          continue;
        }
        const float others = static_cast<float>(averaged(o, 0, z) * averaged(o, 1, at));
        along(columns, [&](int64_t j, int n) { store_up_to(out + j, load_up_to(row + j, n) / (load_up_to(counts + j, n) * others), n); });
      }
    });
  });
}

void pool(Workers& w, const accelcpu_pool& o, const PoolData& d) {
  if (o.pool == ACCELCPU_POOL_MAX) return pool_planes<true>(w, o, d);
  pool_planes<false>(w, o, d);
}

// A row of y along an axis that is the last; Taps 0: as many as there are.
template <int Taps>
void resample_row(const accelcpu_resample& o, const ResampleData& d, const float* x, float* y) {
  const int64_t taps = Taps ? Taps : o.taps;
  const int32_t* index = d.index;
  const float* weight = d.weight;
  for (int64_t j = 0; j < o.out; j++, index += taps, weight += taps) {
    float sum = weight[0] * x[index[0]];
    for (int64_t t = 1; t < taps; t++) sum += weight[t] * x[index[t]];
    y[j] = sum;
  }
}

void resample(Workers& w, const accelcpu_resample& o, const ResampleData& d) {
  if (o.outer == 0 || o.out == 0 || o.inner == 0) return;
  // Rows of y: where `inner` is 1 a task takes whole ones, else each place of the axis is one.
  const int64_t width = o.inner == 1 ? o.out : o.inner, rows = o.inner == 1 ? o.outer : o.outer * o.out;
  const int64_t group = max_of<int64_t>(1, kGrain / width);
  const auto row = o.taps == 1 ? resample_row<1> : o.taps == 2 ? resample_row<2> : o.taps == 4 ? resample_row<4> : resample_row<0>;
  w.each(ceil_div(rows, group), [&](int64_t task, void*) {
    for (int64_t r = task * group; r < min_of(rows, (task + 1) * group); r++) {
      float* y = d.y + r * width;
      if (o.inner == 1) {
        row(o, d, d.x + r * o.in, y);
        continue;
      }
      const int32_t* index = d.index + r % o.out * o.taps;
      const float* weight = d.weight + r % o.out * o.taps;
      const float* x = d.x + r / o.out * o.in * o.inner;
      along(o.inner, [&](int64_t j, int n) {
        Vec v = weight[0] * load_up_to(x + index[0] * o.inner + j, n);
        for (int64_t t = 1; t < o.taps; t++) v += weight[t] * load_up_to(x + index[t] * o.inner + j, n);
        store_up_to(y + j, v, n);
      });
    }
  });
}

template <int Activation>
void groupnorm_rows(Workers& w, const accelcpu_groupnorm& o, const GroupNormData& d) {
  const int64_t length = o.channels * o.inner;
  w.each(o.batch * o.groups, [&](int64_t row, void*) {
    const float* x = d.x + row * length;
    float* y = d.y + row * length;
    const float mean = static_cast<float>(sum_along(length, [&](int64_t j, int n) { return load_up_to(x + j, n); }) / static_cast<double>(length));
    const double squares = sum_along(length, [&](int64_t j, int n) {
      const Vec c = keep(load_up_to(x + j, n) - mean, n, 0.0f);
      return c * c;
    });
    const float factor = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(length) + o.eps));
    for (int64_t c = 0; c < o.channels; c++) {
      const int64_t channel = row % o.groups * o.channels + c;
      const Vec scale = splat(d.scale ? factor * d.scale[channel] : factor), bias = splat(d.bias ? d.bias[channel] : 0.0f);
      along(o.inner, [&](int64_t j, int n) {
        const Vec v = (load_up_to(x + c * o.inner + j, n) - mean) * scale + bias;
        store_up_to(y + c * o.inner + j, activate<Activation>(v), n);
      });
    }
  });
}

void groupnorm(Workers& w, const accelcpu_groupnorm& o, const GroupNormData& d) {
  using Rows = void (*)(Workers&, const accelcpu_groupnorm&, const GroupNormData&);
  constexpr Rows kRowsOf[kActivations] = {groupnorm_rows<0>, groupnorm_rows<1>, groupnorm_rows<2>, groupnorm_rows<3>, groupnorm_rows<4>, groupnorm_rows<5>, groupnorm_rows<6>};
  kRowsOf[o.activation](w, o, d);
}

}  // namespace
}  // namespace accelcpu
#endif
