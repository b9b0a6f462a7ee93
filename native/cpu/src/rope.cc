// Rotary position embedding: its checks.
#include "check.h"
#include "kernels.h"

namespace accelcpu {

void run(Checker& c, const Kernels& k, Workers& w, const accelcpu_rope& o) {
  c.size("batch", o.batch);
  c.size("tokens", o.tokens);
  c.size("heads", o.heads);
  c.size("dim", o.dim);
  c.size("half", o.half);
  c.size("rows", o.rows);
  c.require(o.half <= o.dim / 2, ACCELCPU_INVALID, "half is more than half of dim", o.half);
  c.require(o.interleaved <= 1, ACCELCPU_INVALID, "interleaved is neither 0 nor 1", o.interleaved);
  for (int i = 0; i < 3; i++) {
    c.stride("x_stride", o.x_stride[i]);
    c.stride("y_stride", o.y_stride[i], 0);
  }
  const auto extent = [&](const int64_t* s) { return Extent().dim(o.batch, s[0]).dim(o.tokens, s[1]).dim(o.heads, s[2]).dim(o.dim, 1); };
  RopeData d;
  d.positions = c.optional<const int64_t>("positions", o.positions, dense3(o.batch, o.tokens, 1));
  const Extent tables = d.positions ? dense3(o.rows, o.half, 1) : dense3(o.batch, o.tokens, o.half);
  d.cos = c.required<const float>("cos", o.cos, tables);
  d.sin = c.required<const float>("sin", o.sin, tables);
  d.x = c.required<const float>("x", o.x, extent(o.x_stride));
  d.y = c.required<float>("y", o.y, extent(o.y_stride));
  for (int64_t i = 0; d.positions && c.ok() && i < o.batch * o.tokens; i++) {
    if (d.positions[i] < -o.rows || d.positions[i] >= o.rows) c.refuse(ACCELCPU_INDEX, d.positions[i], o.rows, "positions", i);
  }
  if (c.ok()) k.rope(w, o, d);
}

}  // namespace accelcpu
