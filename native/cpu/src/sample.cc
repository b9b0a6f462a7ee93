// Images read at the places of a grid.
#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace accelcpu {
namespace {

constexpr int kPoints = 64;            // of one task
constexpr int kAxisTaps = 4;           // of the widest filter
constexpr int kTaps = kAxisTaps * kAxisTaps * kAxisTaps;

struct Tap {
  int64_t at;
  float weight;
};
static_assert(kPoints * (kTaps * sizeof(Tap) + sizeof(int)) <= kScratchBytes, "scratch");

double filter(uint32_t mode, double x) {
  x = std::fabs(x);
  if (mode == ACCELCPU_SAMPLE_LINEAR) return std::max(0.0, 1 - x);
  constexpr double a = -0.75;  // R. Keys, IEEE ASSP 29 (1981)
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

// A coordinate outside [low, high], moved as the padding says.
double inside(double x, uint32_t padding, double n, double low, double high) {
  if ((x >= low && x <= high) || padding == ACCELCPU_SAMPLE_ZEROS) return x;
  if (padding == ACCELCPU_SAMPLE_BORDER) return std::min(std::max(x, 0.0), n - 1);
  const double span = high - low;
  if (span <= 0 || std::isinf(x)) return low;
  const double past = x > high ? x - high : low - x, rest = std::fmod(past, span);
  const bool even = std::fmod(std::floor(past / span), 2) == 0;
  return even == (x < low) ? low + rest : high - rest;
}

// The elements of a plane that a point is made of; returns how many.
int taps_at(const accelcpu_gridsample& o, const float* point, Tap* taps) {
  taps[0] = {0, 1.0f};
  int count = 1;
  for (uint32_t i = 0; i < o.rank; i++) {
    const int64_t size = o.in[ACCELCPU_SPATIAL - o.rank + i];
    const double n = static_cast<double>(size), g = static_cast<double>(point[o.rank - 1 - i]);
    const double low = o.align_corners ? 0 : -0.5, high = o.align_corners ? n - 1 : n - 0.5;
    double x = o.align_corners ? (g + 1) / 2 * (n - 1) : ((g + 1) * n - 1) / 2;
    if (x != x) x = -1;
    if (o.mode == ACCELCPU_SAMPLE_NEAREST) x = std::nearbyint(x);
    x = inside(x, o.padding, n, low, high);
    const int radius = static_cast<int>(o.mode);  // 0, 1 or 2: the neighbours on each side
    const double first = radius ? std::floor(x) - radius + 1 : x;
    int64_t where[kAxisTaps];
    float weight[kAxisTaps];
    int there = 0;
    for (int k = 0; k < std::max(1, 2 * radius); k++) {
      // Neighbours of a point inside may lie outside still.
      const double p = std::trunc(inside(first + k, o.padding, n, low, high)), w = radius ? filter(o.mode, first + k - x) : 1;
      if (!(p >= 0 && p <= n - 1) || w == 0) continue;
      where[there] = static_cast<int64_t>(p);
      weight[there++] = static_cast<float>(w);
    }
    // From the last to the first, so that none is overwritten before it is read.
    for (int t = count - 1; t >= 0; t--) {
      const Tap before = taps[t];
      for (int k = 0; k < there; k++) taps[t * there + k] = {before.at * size + where[k], before.weight * weight[k]};
    }
    count *= there;
  }
  return count;
}

}  // namespace

void gridsample(Workers& w, const accelcpu_gridsample& o, const GridSampleData& d) {
  const int64_t chunks = (o.points + kPoints - 1) / kPoints, plane = o.in[0] * o.in[1] * o.in[2];
  if (o.channels == 0) return;
  w.each(o.batch * chunks, [&](int64_t task, void* scratch) {
    const int64_t image = task / chunks, first = task % chunks * kPoints;
    const int points = static_cast<int>(std::min<int64_t>(kPoints, o.points - first));
    Tap* const taps = static_cast<Tap*>(scratch);
    int* const counts = reinterpret_cast<int*>(taps + kPoints * kTaps);
    for (int p = 0; p < points; p++) counts[p] = taps_at(o, d.grid + (image * o.points + first + p) * o.rank, taps + p * kTaps);
    for (int64_t c = 0; c < o.channels; c++) {
      const float* x = d.x + (image * o.channels + c) * plane;
      float* y = d.y + (image * o.channels + c) * o.points + first;
      for (int p = 0; p < points; p++) {
        float sum = 0;
        for (int t = 0; t < counts[p]; t++) sum += taps[p * kTaps + t].weight * x[taps[p * kTaps + t].at];
        y[p] = sum;
      }
    }
  });
}

}  // namespace accelcpu
