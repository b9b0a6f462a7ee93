// Rows of a plane laid out for windows that slide over them: with their padding, and divided by the
// column's remainder modulo the stride, so that a tap of neighbouring places is a whole vector.
#ifndef ACCELCPU_LINES_H
#define ACCELCPU_LINES_H

#include "../kernels.h"
#include "vec.h"

namespace accelcpu {
namespace {

// The taps [first, end) of a window that lie within `in`; tap k at from + k*dilation.
struct Window {
  int64_t from, first, end;
  INLINE int64_t count() const { return end - first; }
};
INLINE Window window(int64_t at, int64_t stride, int64_t pad, int64_t dilation, int64_t kernel, int64_t in) {
  const int64_t from = at * stride - pad;
  const int64_t first = from < 0 ? min_of(kernel, ceil_div(-from, dilation)) : 0;
  const int64_t end = from >= in ? first : max_of(first, min_of(kernel, ceil_div(in - from, dilation)));
  return {from, first, end};
}

template <int... I>
INLINE Vec even_lanes(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
// Every second float from p on, n of them.
INLINE Vec load_even(const float* p, int n) {
  const int low = min_of(2 * n - 1, kLanes), high = 2 * n - 1 - kLanes;
  const Vec a = load_up_to(p, low), b = high > 0 ? load_n(p + kLanes, high) : Vec{};
  return even_lanes(a, b, std::make_integer_sequence<int, kLanes>());
}

// dst[j] = src[(first + j)*stride] where that is within [0, size), else fill.
INLINE void lay_line(const float* src, int64_t size, int64_t first, int64_t stride, float fill, float* dst, int64_t count) {
  const int64_t low = min_of(count, max_of<int64_t>(0, -first)), high = max_of(low, min_of(count, ceil_div(size, stride) - first));
  for (int64_t j = 0; j < low; j++) dst[j] = fill;
  const float* s = src + (first + low) * stride;
  const int64_t n = high - low;
  if (stride == 1) {
    if (n > 0) std::memcpy(dst + low, s, static_cast<size_t>(n) * 4);
  } else if (stride == 2) {
    along(n, [&](int64_t j, int lanes) { store_up_to(dst + low + j, load_even(s + 2 * j, lanes), lanes); });
  } else {
    for (int64_t j = 0; j < n; j++) dst[low + j] = s[j * stride];
  }
  for (int64_t j = high; j < count; j++) dst[j] = fill;
}

// The lines under some rows of y.
struct Lines {
  const float* data;
  int64_t pitch, phase;              // of a line, and of a remainder within it
  int64_t kernel, stride, dilation;  // along the line
  int64_t first, rows;               // row of x that line 0 holds, and how many follow for each plane

  // What tap kx meets at the first column and on.
  INLINE const float* at(int64_t line, int64_t kx) const {
    const float* p = data + line * pitch;
    const int64_t column = kx * dilation;
    return stride == 1 ? p + column : p + column % stride * phase + column / stride;
  }
  // f(kz, ky, line) for the rows of x under row (z, y) of y.
  template <class Op, class F>
  INLINE void each_row(const Op& o, int64_t z, int64_t y, F f) const {
    const Window wz = window(z, o.stride[0], o.pad[0], o.dilation[0], o.kernel[0], o.in[0]), wy = window(y, o.stride[1], o.pad[1], o.dilation[1], o.kernel[1], o.in[1]);
    for (int64_t kz = wz.first; kz < wz.end; kz++)
      for (int64_t ky = wy.first; ky < wy.end; ky++) f(kz, ky, kz * rows + wy.from + ky * o.dilation[1] - first);
  }
};

// Columns of y that are computed together at most.
constexpr int64_t kLineColumns = 1024;

// How planes of y are cut into bands whose lines fit the cache, and bands into tasks.
struct LinePlan {
  bool fits;
  int64_t tasks;       // for each plane
  int64_t out_pitch, out_floats;  // room for rows of y
  int64_t columns, rows;          // of a band
  int64_t phase, pitch, lines;
  int64_t bands[2];  // along y and x

  template <class Op>
  INLINE LinePlan(const Op& o, int64_t row_step, int threads, int64_t planes) {
    constexpr int64_t kBudget = kScratchBytes / 4 / 4;  // floats: a quarter, so that it stays in L2
    columns = min_of<int64_t>(kLineColumns, ceil_div(o.out[2], kLanes) * kLanes);
    fits = false;
    // Sizes are 2^30 at most, and so products of two may be formed, of three not.
    const int64_t reach = (o.kernel[2] - 1) * o.dilation[2] / o.stride[2] + 1, tall = (o.kernel[1] - 1) * o.dilation[1] + 1;
    if (o.stride[2] < kBudget && reach < kBudget && tall < kBudget && o.kernel[0] < kBudget && o.stride[1] < kBudget) {
      for (;; columns = max_of<int64_t>(kLanes, columns / 2 / kLanes * kLanes)) {
        phase = columns + reach;
        pitch = phase * o.stride[2];
        out_pitch = columns;
        out_floats = row_step * columns;
        const int64_t room = (kBudget - out_floats) / max_of<int64_t>(1, pitch) / o.kernel[0];  // lines of a plane
        rows = room < tall ? 0 : (room - tall) / o.stride[1] + 1;
        rows = min_of(rows, ceil_div(o.out[1], row_step) * row_step) / row_step * row_step;
        if (rows > 0 || columns == kLanes) break;
      }
      fits = rows > 0;
    }
    int64_t units = o.out[0] * o.out[1] * o.out[2];
    if (fits) {
      lines = (rows - 1) * o.stride[1] + tall;
      bands[0] = ceil_div(o.out[1], rows);
      bands[1] = ceil_div(o.out[2], columns);
      units = o.out[0] * bands[0] * bands[1];
    }
    tasks = min_of(units, ceil_div(4 * threads, planes));
  }

  // f(lines, z, y0, y1, x0, columns) for each band of a task.
  template <class Op, class F>
  INLINE void each_band(const Op& o, int64_t task, const float* x, float fill, float* memory, F f) const {
    const int64_t units = o.out[0] * bands[0] * bands[1];
    for (int64_t u = part(task, units, tasks); u < part(task + 1, units, tasks); u++) {
      const int64_t z = u / bands[1] / bands[0], y0 = u / bands[1] % bands[0] * rows, x0 = u % bands[1] * columns;
      const int64_t y1 = min_of(o.out[1], y0 + rows), x1 = min_of(o.out[2], x0 + columns);
      const Lines l{memory, pitch, phase, o.kernel[2], o.stride[2], o.dilation[2], y0 * o.stride[1] - o.pad[1], lines};
      const Window wz = window(z, o.stride[0], o.pad[0], o.dilation[0], o.kernel[0], o.in[0]);
      for (int64_t kz = wz.first; kz < wz.end; kz++) {
        const float* plane = x + (wz.from + kz * o.dilation[0]) * o.in[1] * o.in[2];
        for (int64_t i = 0; i < lines; i++) {
          float* line = memory + (kz * lines + i) * pitch;
          const int64_t row = l.first + i;
          if (row < 0 || row >= o.in[1]) {
            for (int64_t j = 0; j < pitch; j++) line[j] = fill;
            continue;
          }
          for (int64_t r = 0; r < o.stride[2]; r++) {
            // Column (x0 + j)*stride - pad + r of the row: its first within x is `skip`, at j = -first.
            const int64_t begin = x0 * o.stride[2] - o.pad[2] + r, s = o.stride[2];
            const int64_t first = begin >= 0 ? begin / s : -ceil_div(-begin, s), skip = begin - first * s;
            lay_line(plane + row * o.in[2] + skip, o.in[2] - skip, first, s, fill, line + r * phase, phase);
          }
        }
      }
      f(l, z, y0, y1, x0, x1 - x0);
    }
  }

  // f(at) for each place of a task, where nothing fits.
  template <class Op, class F>
  INLINE void each_place(const Op& o, int64_t task, F f) const {
    const int64_t places = o.out[0] * o.out[1] * o.out[2];
    for (int64_t p = part(task, places, tasks); p < part(task + 1, places, tasks); p++) {
      const int64_t at[3] = {p / o.out[2] / o.out[1], p / o.out[2] % o.out[1], p % o.out[2]};
      f(at);
    }
  }
};

}  // namespace
}  // namespace accelcpu
#endif
