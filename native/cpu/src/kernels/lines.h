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

// n elements from p on, Step apart.
template <int Step>
INLINE Vec load_apart(const float* p, int n) {
  return Step == 1 ? load_up_to(p, n) : load_even(p, n);
}

// dst[j] = src[(j - low)*stride] for low <= j < high, else fill, up to count; up to a vector more is written.
INLINE void lay_line(const float* src, int64_t stride, int64_t low, int64_t high, float fill, float* dst, int64_t count) {
  const Vec outside = kept(splat(fill));  // or gcc calls memset for a few bytes
  for (int64_t j = 0; j < low; j += kLanes) store(dst + j, outside);
  const int64_t n = high - low;
  if (stride == 1) {
    along(n, [&](int64_t j, int lanes) { store(dst + low + j, load_apart<1>(src + j, lanes)); });
  } else if (stride == 2) {
    along(n, [&](int64_t j, int lanes) { store(dst + low + j, load_apart<2>(src + 2 * j, lanes)); });
  } else {
    for (int64_t j = 0; j < n; j++) dst[low + j] = src[j * stride];
  }
  for (int64_t j = high; j < count; j += kLanes) store(dst + j, outside);
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
    if (stride == 1) return p + column;
    if (stride == 2) return p + (column & 1) * phase + (column >> 1);
    return p + column % stride * phase + column / stride;
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
        phase = columns + reach + kLanes;  // a vector more than is read
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
        // Element j of remainder r is column (x0 + j)*stride - pad + r.
        const int64_t s = o.stride[2], count = phase - kLanes;
        for (int64_t r = 0; r < s; r++) {
          const int64_t begin = x0 * s - o.pad[2] + r;
          const int64_t low = begin < 0 ? min_of(count, ceil_div(-begin, s)) : 0, high = begin >= o.in[2] ? low : max_of(low, min_of(count, ceil_div(o.in[2] - begin, s)));
          for (int64_t i = 0; i < lines; i++) {
            const int64_t row = l.first + i;
            const bool inside = row >= 0 && row < o.in[1] && high > low;
            lay_line(inside ? plane + row * o.in[2] + begin + low * s : nullptr, s, inside ? low : 0, inside ? high : 0, fill, memory + (kz * lines + i) * pitch + r * phase, count);
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
