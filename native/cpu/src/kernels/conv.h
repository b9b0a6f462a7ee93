// Convolution: as products of packed weights with patches that are gathered tile by tile, and
// directly where each channel has filters of its own.
#ifndef ACCELCPU_CONV_H
#define ACCELCPU_CONV_H

#include "gemm.h"
#include "lines.h"

namespace accelcpu {
namespace {

constexpr int kConvActivations = 11;

template <int Activation>
INLINE Vec activate_with(Vec v, Vec a, Vec b) {
  const Vec zero = Vec{}, one = splat(1.0f);
  switch (Activation) {
    case ACCELCPU_ACT_CLIP: return min_nan(max_nan(v, a), b);
    case ACCELCPU_ACT_LEAKY_RELU: return v < 0.0f ? a * v : v;
    case ACCELCPU_ACT_HARD_SIGMOID: return min_nan(max_nan(a * v + b, zero), one);
    case ACCELCPU_ACT_HARD_SWISH: return v * min_nan(max_nan(a * v + b, zero), one);
  }
  return activate<Activation>(v);
}

// The way from sums to y: `count` neighbouring places of some filters, whose rows lie `pitch` apart in
// sums and `stride` apart in residual and y.
struct ConvEpilogue {
  float a, b;
  bool residual_last;
};
struct ConvRows {
  const float *sums, *bias, *residual;  // bias and residual may be null
  float* y;
  int64_t rows, pitch, stride, count;
  int64_t bias_step;  // 1, or 0 where all rows are of one filter
};
template <int Activation>
void conv_finish(const ConvEpilogue& e, const ConvRows& r) {
  const Vec a = splat(e.a), b = splat(e.b);
  for (int64_t i = 0; i < r.rows; i++) {
    const Vec bias = splat(r.bias ? r.bias[i * r.bias_step] : 0.0f);
    const float* sums = r.sums + i * r.pitch;
    const float* residual = r.residual ? r.residual + i * r.stride : nullptr;
    float* y = r.y + i * r.stride;
    along(r.count, [&](int64_t j, int lanes) {
      Vec v = load(sums + j) + bias;  // a row of sums is whole vectors
      if (residual) {
        const Vec more = load_up_to(residual + j, lanes);
        v = e.residual_last ? activate_with<Activation>(v, a, b) + more : activate_with<Activation>(v + more, a, b);
      } else {
        v = activate_with<Activation>(v, a, b);
      }
      store_up_to(y + j, v, lanes);
    });
  }
}
using ConvFinish = void (*)(const ConvEpilogue&, const ConvRows&);
constexpr ConvFinish kConvFinish[kConvActivations] = {conv_finish<0>, conv_finish<1>, conv_finish<2>, conv_finish<3>, conv_finish<4>, conv_finish<5>,
                                                      conv_finish<6>, conv_finish<7>, conv_finish<8>, conv_finish<9>, conv_finish<10>};

// Neighbouring places of y within one of its rows.
struct Run {
  int first, count;
  int64_t at[ACCELCPU_SPATIAL];  // of the first
};

// The places [first, first + count) as runs; returns how many there are.
INLINE int find_runs(const int64_t* out, int64_t first, int count, Run* runs) {
  int n = 0;
  int64_t at[3] = {first / out[2] / out[1], first / out[2] % out[1], first % out[2]};
  for (int done = 0; done < count; n++) {
    Run& r = runs[n];
    r.first = done;
    r.count = static_cast<int>(min_of<int64_t>(count - done, out[2] - at[2]));
    for (int i = 0; i < 3; i++) r.at[i] = at[i];
    done += r.count;
    at[2] = 0;
    if (++at[1] == out[1]) at[1] = 0, at[0]++;
  }
  return n;
}

// Some rows of a panel of patches, one for each channel: lane j of the run is src[j*step] for
// low <= j < high, else 0. What stands behind the run, up to a vector, may be overwritten, but not from `end` on.
struct Rowset {
  const float* src;
  int64_t plane;
  float* dst;
  int64_t pitch, channels;
  int count, low, high, room;  // room: up to the end of the panel's row
};
template <int Step>
void gather_inside(const Rowset& r) {
  const int tail = (r.count - 1) % kLanes + 1, full = r.count - tail;
  const bool fits = full + kLanes <= r.room;
  const float* src = r.src;
  float* dst = r.dst;
  for (int64_t c = 0; c < r.channels; c++, src += r.plane, dst += r.pitch) {
    for (int j = 0; j < full; j += kLanes) store(dst + j, load_apart<Step>(src + j * Step, kLanes));
    const Vec v = load_apart<Step>(src + full * Step, tail);
    if (fits) {
      store(dst + full, v);
    } else {
      store_n(dst + full, v, tail);
    }
  }
}
template <int Step>
void gather_border(const Rowset& r, int64_t step) {
  const float* src = r.src;
  float* dst = r.dst;
  for (int64_t c = 0; c < r.channels; c++, src += r.plane, dst += r.pitch) {
    auto put = [&](int j, Vec v, int n) {
      if (j + kLanes <= r.room) {
        store(dst + j, v);
      } else {
        store_n(dst + j, v, n);
      }
    };
    for (int j = 0; j < r.low; j += kLanes) put(j, Vec{}, min_of(kLanes, r.low - j));
    if constexpr (Step == 0) {
      for (int j = r.low; j < r.high; j++) dst[j] = src[j * step];
    } else {
      for (int j = r.low; j < r.high; j += kLanes) {
        const int n = min_of(kLanes, r.high - j);
        put(j, load_apart<Step>(src + j * Step, n), n);
      }
    }
    for (int j = r.high; j < r.count; j += kLanes) put(j, Vec{}, min_of(kLanes, r.count - j));
  }
}

// A part of the depth of a convolution: channels [c0, c1), taps [t0, t1) of each.
struct Depth {
  int64_t c0, c1, t0, t1;
  int64_t size() const { return (c1 - c0) * (t1 - t0); }
};

// Blocks of depth: some channels whole, or a part of one channel's taps.
struct DepthBlocks {
  int64_t channels, taps, count, channel_blocks, tap_blocks;
  INLINE DepthBlocks(int64_t c, int64_t t) : channels(c), taps(t) {
    tap_blocks = ceil_div(t, kBlockK);
    channel_blocks = tap_blocks > 1 ? c : ceil_div(c, max_of<int64_t>(1, kBlockK / t));
    count = max_of<int64_t>(1, channel_blocks * tap_blocks);
  }
  INLINE Depth at(int64_t i) const {
    if (channels == 0) return {0, 0, 0, taps};
    const int64_t c = i / tap_blocks, t = i % tap_blocks;
    return {part(c, channels, channel_blocks), part(c + 1, channels, channel_blocks), part(t, taps, tap_blocks), part(t + 1, taps, tap_blocks)};
  }
};

// panel[k*kPanel + j] = what filter element k of the block meets at place j. x begins with the block's image and group.
void gather_patches(const accelcpu_conv& o, const float* x, const Depth& depth, const Run* runs, int run_count, float* panel) {
  const int64_t plane = o.in[0] * o.in[1] * o.in[2], taps = depth.t1 - depth.t0, step = o.stride[2];
  int64_t tap[3] = {depth.t0 / o.kernel[2] / o.kernel[1], depth.t0 / o.kernel[2] % o.kernel[1], depth.t0 % o.kernel[2]};
  x += depth.c0 * plane;
  for (int64_t t = 0; t < taps; t++) {
    for (int i = 0; i < run_count; i++) {
      const Run& run = runs[i];
      int64_t from[3];
      for (int d = 0; d < 3; d++) from[d] = run.at[d] * o.stride[d] - o.pad[d] + tap[d] * o.dilation[d];
      Rowset r{x, plane, panel + t * kPanel + run.first, taps * kPanel, depth.c1 - depth.c0, run.count, 0, 0, kPanel - run.first};
      if (from[0] >= 0 && from[0] < o.in[0] && from[1] >= 0 && from[1] < o.in[1] && from[2] < o.in[2]) {
        r.low = from[2] < 0 ? static_cast<int>(min_of<int64_t>(run.count, ceil_div(-from[2], step))) : 0;
        r.high = run.count;
        if (from[2] + (run.count - 1) * step >= o.in[2]) r.high = static_cast<int>(max_of<int64_t>(r.low, ceil_div(o.in[2] - from[2], step)));
        if (r.high > r.low) r.src += (from[0] * o.in[1] + from[1]) * o.in[2] + from[2];
      }
      const bool inside = r.low == 0 && r.high == run.count;
      switch (step) {
        case 1: inside ? gather_inside<1>(r) : gather_border<1>(r, 1); break;
        case 2: inside ? gather_inside<2>(r) : gather_border<2>(r, 2); break;
        default: gather_border<0>(r, step);
      }
    }
    for (int d = 2; d >= 0 && ++tap[d] == o.kernel[d]; d--) tap[d] = 0;
  }
}

// Panels of places and of filters whose product one task keeps at a time.
constexpr int64_t kPlacePanels = max_of(1, 128 / kPanel);
constexpr int64_t kSumBytes = kScratchBytes / 2;
constexpr int64_t kFilterPanels = kSumBytes / 4 / kPanel / kPanel / kPlacePanels;
static_assert(kFilterPanels >= 1 && kSumBytes + (kPlacePanels * kBlockK * kPanel + kPanel * kPanel) * 4 <= kScratchBytes, "scratch");

// Whether places, not filters, should be the rows of the tile: where they fill vectors badly.
INLINE bool places_as_rows(int64_t places, int64_t filters, int64_t depth) {
  auto padded = [](int64_t n) { return static_cast<double>(ceil_div(n, kLanes) * kLanes) / static_cast<double>(n); };
  return padded(places) > padded(filters) * (1.05 + 24.0 / static_cast<double>(depth + 1));
}

// sums (+)= the product of two panels; `rows` of a, `columns` of b.
INLINE void panel_product(const float* a, int rows, const float* b, int columns, int64_t depth, float* sums, bool add) {
  const int tiles = (rows + kRows - 1) / kRows;
  const auto& product = columns > kLanes ? kTiles<kCols, Rows::kPanel> : kTiles<1, Rows::kPanel>;
  for (int t = 0; t < tiles; t++) {
    const int row = t * rows / tiles, count = (t + 1) * rows / tiles - row;
    product[count - 1](a + row, 1, b, kPanel, depth, sums + row * kPanel, add);
  }
}

void conv_packed(Workers& w, const accelcpu_conv& o, const ConvData& d) {
  const int64_t places = o.out[0] * o.out[1] * o.out[2], taps = o.kernel[0] * o.kernel[1] * o.kernel[2];
  const int64_t depth = o.channels * taps, x_group = o.channels * o.in[0] * o.in[1] * o.in[2];
  const int64_t filter_panels = ceil_div(o.filters, kPanel), place_panels = ceil_div(places, kPanel);
  const bool by_place = places_as_rows(places, o.filters, depth);
  const DepthBlocks blocks(o.channels, taps);
  // Filters are divided among tasks as far as the threads need it, for each task gathers its patches anew.
  const int64_t place_groups = ceil_div(place_panels, kPlacePanels), others = o.batch * o.groups * place_groups;
  const int64_t filter_groups = min_of(filter_panels, max_of(ceil_div(filter_panels, kFilterPanels), w.threads() > 1 ? ceil_div(3 * w.threads(), others) : 1));
  const bool dense_y = o.y_stride[4] == 1 && (o.out[1] == 1 || o.y_stride[3] == o.out[2]) && (o.out[0] == 1 || o.y_stride[2] == o.out[1] * o.out[2]);
  const ConvEpilogue e{o.act_a, o.act_b, o.residual_last != 0};
  const ConvFinish finish = kConvFinish[o.activation];

  w.each(others * filter_groups, [&](int64_t task, void* scratch) {
    const int64_t filter_group = task % filter_groups, place_group = task / filter_groups % place_groups;
    const int64_t image = task / filter_groups / place_groups / o.groups, group = task / filter_groups / place_groups % o.groups;
    const int64_t p0 = part(place_group, place_panels, place_groups), p1 = part(place_group + 1, place_panels, place_groups);
    const int64_t f0 = part(filter_group, filter_panels, filter_groups), f1 = part(filter_group + 1, filter_panels, filter_groups);
    float* const sums = static_cast<float*>(scratch);
    float* const turned = sums + kSumBytes / 4;
    float* const patches = turned + kPanel * kPanel;
    const float* x = d.x + (image * o.groups + group) * x_group;
    const float* weights = d.w + group * filter_panels * kPanel * depth;
    Run runs[kPanel];

    int64_t k0 = 0;
    for (int64_t block = 0; block < blocks.count; block++) {
      const Depth part_of = blocks.at(block);
      const int64_t k = part_of.size();
      const bool last = block + 1 == blocks.count;
      for (int64_t p = p0; p < p1; p++) {
        const int run_count = find_runs(o.out, p * kPanel, static_cast<int>(min_of<int64_t>(kPanel, places - p * kPanel)), runs);
        gather_patches(o, x, part_of, runs, run_count, patches + (p - p0) * k * kPanel);
      }
      for (int64_t f = f0; f < f1; f++) {
        const int filters = static_cast<int>(min_of<int64_t>(kPanel, o.filters - f * kPanel));
        const float* a = weights + (f * depth + k0) * kPanel;
        for (int64_t p = p0; p < p1; p++) {
          const int count = static_cast<int>(min_of<int64_t>(kPanel, places - p * kPanel));
          const float* b = patches + (p - p0) * k * kPanel;
          float* sum = blocks.count > 1 ? sums + ((f - f0) * (p1 - p0) + p - p0) * kPanel * kPanel : sums;
          if (by_place) {
            panel_product(b, count, a, filters, k, sum, block > 0);
          } else {
            panel_product(a, filters, b, count, k, sum, block > 0);
          }
          if (!last) continue;
          if (by_place) {
            for (int j = 0; j < filters; j++)
              for (int i = 0; i < count; i++) turned[j * kPanel + i] = sum[i * kPanel + j];
            sum = turned;
          }
          const int64_t filter = group * o.filters + f * kPanel, base = image * o.y_stride[0] + filter * o.y_stride[1];
          const float* bias = d.bias ? d.bias + filter : nullptr;
          if (dense_y) {
            const int64_t at = base + p * kPanel;
            finish(e, {sum, bias, d.residual ? d.residual + at : nullptr, d.y + at, filters, kPanel, o.y_stride[1], count, 1});
            continue;
          }
          const int run_count = find_runs(o.out, p * kPanel, count, runs);
          for (int i = 0; i < filters; i++) {
            for (int r = 0; r < run_count; r++) {
              const Run& run = runs[r];
              const int64_t at = base + i * o.y_stride[1] + run.at[0] * o.y_stride[2] + run.at[1] * o.y_stride[3] + run.at[2] * o.y_stride[4], step = o.y_stride[4];
              float row[kPanel], residual[kPanel], from[kPanel] = {};
              for (int j = 0; j < run.count; j++) from[j] = sum[i * kPanel + run.first + j];
              if (d.residual)
                for (int j = 0; j < run.count; j++) residual[j] = d.residual[at + j * step];
              finish(e, {from, bias ? bias + i : nullptr, d.residual ? residual : nullptr, row, 1, 0, 0, run.count, 0});
              for (int j = 0; j < run.count; j++) d.y[at + j * step] = row[j];
            }
          }
        }
      }
      k0 += k;
    }
  });
}

// Taps of a column that are kept in registers while they meet several rows of y.
constexpr int kDepthRows = 4;

// sums[r][j], r < kDepthRows, j < Cols vectors: the taps of Height neighbouring rows.
template <int Height, int Stride, int Cols>
INLINE void depth_block(const Lines& lines, const float* weights, int64_t line, int64_t column, float* sums, int64_t pitch) {
  Vec acc[kDepthRows][Cols];
  UNROLL for (int r = 0; r < kDepthRows; r++)
    UNROLL for (int j = 0; j < Cols; j++) acc[r][j] = Vec{};
  for (int64_t kx = 0; kx < lines.kernel; kx++) {
    Vec tap[Height];
    UNROLL for (int ky = 0; ky < Height; ky++) tap[ky] = kept(splat(weights[ky * lines.kernel + kx]));
    const float* src = lines.at(line, kx) + column;
    UNROLL for (int i = 0; i < (kDepthRows - 1) * Stride + Height; i++, src += lines.pitch) {
      UNROLL for (int j = 0; j < Cols; j++) {
        const Vec v = kept(load(src + j * kLanes));
        UNROLL for (int r = 0; r < kDepthRows; r++) {
          if (i - r * Stride >= 0 && i - r * Stride < Height) acc[r][j] = fma(tap[i - r * Stride], v, acc[r][j]);
        }
      }
    }
  }
  UNROLL for (int r = 0; r < kDepthRows; r++)
    UNROLL for (int j = 0; j < Cols; j++) store(sums + r * pitch + j * kLanes, acc[r][j]);
}

template <int Height, int Stride>
void depth_rows(const Lines& lines, const float* weights, int64_t line, int64_t columns, float* sums, int64_t pitch) {
  int64_t column = 0;
  for (; column + kLanes < columns; column += 2 * kLanes) depth_block<Height, Stride, 2>(lines, weights, line, column, sums + column, pitch);
  if (column < columns) depth_block<Height, Stride, 1>(lines, weights, line, column, sums + column, pitch);
}
using DepthRows = void (*)(const Lines&, const float*, int64_t, int64_t, float*, int64_t);
// By height and stride; null where there is none.
INLINE DepthRows depth_rows_of(const accelcpu_conv& o) {
  if (o.kernel[0] != 1 || o.dilation[1] != 1 || o.stride[1] > 2) return nullptr;
  const bool one = o.stride[1] == 1;
  switch (o.kernel[1]) {
    case 3: return one ? depth_rows<3, 1> : depth_rows<3, 2>;
    case 5: return one ? depth_rows<5, 1> : depth_rows<5, 2>;
    case 7: return one ? depth_rows<7, 1> : depth_rows<7, 2>;
  }
  return nullptr;
}

// One row of y, any stride and dilation: sums += the taps of one row of x.
INLINE void depth_line(const Lines& lines, const float* weights, int64_t line, int64_t columns, float* sums, bool add) {
  constexpr int kCount = 4;
  for (int64_t column = 0; column < columns; column += kCount * kLanes) {
    const int count = static_cast<int>(min_of<int64_t>(kCount, ceil_div(columns - column, kLanes)));
    Vec acc[kCount];
    for (int j = 0; j < kCount; j++) acc[j] = add && j < count ? load(sums + column + j * kLanes) : Vec{};
    if (count == kCount) {
      for (int64_t kx = 0; kx < lines.kernel; kx++) {
        const float* src = lines.at(line, kx) + column;
        const Vec tap = splat(weights[kx]);
        UNROLL for (int j = 0; j < kCount; j++) acc[j] = fma(tap, load(src + j * kLanes), acc[j]);
      }
    } else {
      for (int64_t kx = 0; kx < lines.kernel; kx++) {
        const float* src = lines.at(line, kx) + column;
        const Vec tap = splat(weights[kx]);
        for (int j = 0; j < count; j++) acc[j] = fma(tap, load(src + j * kLanes), acc[j]);
      }
    }
    for (int j = 0; j < count; j++) store(sums + column + j * kLanes, acc[j]);
  }
}

// One place of y, straight from x: for windows too large for lines.
INLINE float depth_place(const accelcpu_conv& o, const float* x, const float* weights, const int64_t* at) {
  float total = 0.0f;
  Window win[3];
  for (int i = 0; i < 3; i++) win[i] = window(at[i], o.stride[i], o.pad[i], o.dilation[i], o.kernel[i], o.in[i]);
  for (int64_t a = win[0].first; a < win[0].end; a++) {
    for (int64_t b = win[1].first; b < win[1].end; b++) {
      const float* row = x + ((win[0].from + a * o.dilation[0]) * o.in[1] + win[1].from + b * o.dilation[1]) * o.in[2];
      const float* taps = weights + (a * o.kernel[1] + b) * o.kernel[2];
      for (int64_t c = win[2].first; c < win[2].end; c++) total += taps[c] * row[win[2].from + c * o.dilation[2]];
    }
  }
  return total;
}

// Each channel with filters of its own: rows of x are laid out with their padding, then every tap is one
// multiplication of whole vectors.
void conv_depthwise(Workers& w, const accelcpu_conv& o, const ConvData& d) {
  const int64_t plane = o.in[0] * o.in[1] * o.in[2], taps = o.kernel[0] * o.kernel[1] * o.kernel[2], filters = o.groups * o.filters;
  const LinePlan plan(o, kDepthRows, w.threads(), o.batch * filters);
  const ConvEpilogue e{o.act_a, o.act_b, o.residual_last != 0};
  const ConvFinish finish = kConvFinish[o.activation];
  const DepthRows shared = depth_rows_of(o);

  w.each(o.batch * filters * plan.tasks, [&](int64_t task, void* scratch) {
    const int64_t filter = task / plan.tasks % filters, image = task / plan.tasks / filters;
    const float* x = d.x + (image * o.groups + filter / o.filters) * plane;
    const float* weights = d.w + filter * taps;
    const float* bias = d.bias ? d.bias + filter : nullptr;
    const int64_t base = image * o.y_stride[0] + filter * o.y_stride[1], step = o.y_stride[4];
    // Rows of y from (z, y, x0) on, n places each.
    auto write = [&](const float* sums, int64_t z, int64_t y, int64_t x0, int64_t rows, int64_t n) {
      const int64_t at = base + z * o.y_stride[2] + y * o.y_stride[3] + x0 * step;
      if (step == 1) return finish(e, {sums, bias, d.residual ? d.residual + at : nullptr, d.y + at, rows, plan.out_pitch, o.y_stride[3], n, 0});
      for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < n; j++) {
          const float one[kLanes] = {sums[i * plan.out_pitch + j]};
          const int64_t to = at + i * o.y_stride[3] + j * step;
          finish(e, {one, bias, d.residual ? d.residual + to : nullptr, d.y + to, 1, 0, 0, 1, 0});
        }
      }
    };
    if (!plan.fits) {
      plan.each_place(o, task % plan.tasks, [&](const int64_t* at) {
        const float sum[kLanes] = {depth_place(o, x, weights, at)};
        write(sum, at[0], at[1], at[2], 1, 1);
      });
      return;
    }
    float* const sums = static_cast<float*>(scratch);
    plan.each_band(o, task % plan.tasks, x, 0.0f, sums + plan.out_floats, [&](const Lines& lines, int64_t z, int64_t y0, int64_t y1, int64_t x0, int64_t columns) {
      int64_t y = y0;
      // Where z lies in the padding of the first dimension there are no lines.
      if (shared && window(z, o.stride[0], o.pad[0], o.dilation[0], o.kernel[0], o.in[0]).count() > 0) {
        for (; y < y1; y += kDepthRows) {
          shared(lines, weights, (y - y0) * o.stride[1], columns, sums, plan.out_pitch);
          write(sums, z, y, x0, min_of<int64_t>(kDepthRows, y1 - y), columns);
        }
        return;
      }
      for (; y < y1; y++) {
        bool add = false;
        lines.each_row(o, z, y, [&](int64_t kz, int64_t ky, int64_t line) {
          depth_line(lines, weights + (kz * o.kernel[1] + ky) * o.kernel[2], line, columns, sums, add);
          add = true;
        });
        if (!add)
          for (int64_t j = 0; j < columns; j++) sums[j] = 0.0f;
        write(sums, z, y, x0, 1, columns);
      }
    });
  });
}

void conv(Workers& w, const accelcpu_conv& o, const ConvData& d) {
  if (o.channels == 1 && o.groups > 1) return conv_depthwise(w, o, d);
  accelcpu_conv flat = o;
  // Filters of one tap see a plane as one row.
  bool point = true;
  for (int i = 0; i < 3; i++) point &= o.kernel[i] == 1 && o.stride[i] == 1 && o.pad[i] == 0 && o.in[i] == o.out[i];
  const int64_t places = o.out[0] * o.out[1] * o.out[2];
  point &= o.y_stride[4] == 1 && (o.out[1] == 1 || o.y_stride[3] == o.out[2]) && (o.out[0] == 1 || o.y_stride[2] == o.out[1] * o.out[2]);
  if (point) {
    flat.in[0] = flat.in[1] = flat.out[0] = flat.out[1] = 1;
    flat.in[2] = flat.out[2] = places;
  }
  conv_packed(w, flat, d);
}

}  // namespace
}  // namespace accelcpu
#endif
