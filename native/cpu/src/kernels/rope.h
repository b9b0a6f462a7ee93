// Rotary position embedding.
#ifndef ACCELCPU_ROPE_H
#define ACCELCPU_ROPE_H

#include "rows.h"

namespace accelcpu {
namespace {

// One head: pairs of elements turned by an angle each; what lies beyond the pairs stays.
INLINE void rotate_head(const accelcpu_rope& o, const float* cosine, const float* sine, const float* x, float* y) {
  if (o.interleaved) {
    for (int64_t i = 0; i < o.half; i++) {
      const float a = x[2 * i], b = x[2 * i + 1];
      y[2 * i] = cosine[i] * a - sine[i] * b;
      y[2 * i + 1] = sine[i] * a + cosine[i] * b;
    }
  } else {
    along(o.half, [&](int64_t j, int n) {
      const Vec a = load_up_to(x + j, n), b = load_up_to(x + o.half + j, n), c = load_up_to(cosine + j, n), s = load_up_to(sine + j, n);
      store_up_to(y + j, c * a - s * b, n);
      store_up_to(y + o.half + j, s * a + c * b, n);
    });
  }
  if (x != y) std::memcpy(y + 2 * o.half, x + 2 * o.half, static_cast<size_t>(o.dim - 2 * o.half) * 4);
}

void rope(Workers& w, const accelcpu_rope& o, const RopeData& d) {
  const int64_t width = o.heads * o.dim;
  if (width == 0) return;
  const int64_t rows = o.batch * o.tokens, some = max_of<int64_t>(1, kGrain / width);
  w.each(ceil_div(rows, some), [&](int64_t task, void*) {
    for (int64_t row = task * some; row < min_of(rows, (task + 1) * some); row++) {
      const int64_t b = row / o.tokens, t = row % o.tokens;
      int64_t at = d.positions ? d.positions[row] : row;
      if (at < 0) at += o.rows;
      const float *x = d.x + b * o.x_stride[0] + t * o.x_stride[1], *cosine = d.cos + at * o.half, *sine = d.sin + at * o.half;
      float* y = d.y + b * o.y_stride[0] + t * o.y_stride[1];
      for (int64_t h = 0; h < o.heads; h++) rotate_head(o, cosine, sine, x + h * o.x_stride[2], y + h * o.y_stride[2]);
    }
  });
}

}  // namespace
}  // namespace accelcpu
#endif
