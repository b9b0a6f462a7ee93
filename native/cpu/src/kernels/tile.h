// The register tile's size, and the way from one of sums to C.
#ifndef ACCELCPU_TILE_H
#define ACCELCPU_TILE_H

#include "../kernels.h"
#include "math.h"
#include "vec.h"

namespace accelcpu {
namespace {

// The register tile. VEC_ROWS * VEC_COLS accumulators, VEC_COLS of B and one of A
// have to fit the instruction set's registers.
constexpr int kRows = VEC_ROWS;
constexpr int kCols = VEC_COLS;
constexpr int kPanel = kCols * kLanes;
constexpr int kTile = kRows * kPanel;

// The way from a tile of sums to C.
struct Epilogue {
  float alpha;
  const float *bias, *residual;  // of C's first column, first element; may be null
  float* c;
  int64_t ldc, ldr;
};

template <int Activation>
void finish(const Epilogue& e, const float* tile, int64_t row, int rows, int64_t column, int columns) {
  for (int j = 0; j < columns; j += kLanes) {
    const int n = min_of(kLanes, columns - j);
    const Vec bias = !e.bias ? Vec{} : n == kLanes ? load(e.bias + column + j) : load_n(e.bias + column + j, n);
    for (int i = 0; i < rows; i++) {
      Vec v = activate<Activation>(fma(load(tile + i * kPanel + j), splat(e.alpha), bias));
      float* c = e.c + (row + i) * e.ldc + column + j;
      const float* r = e.residual ? e.residual + (row + i) * e.ldr + column + j : nullptr;
      if (n == kLanes) {
        if (r) v += load(r);
        store(c, v);
      } else {
        if (r) v += load_n(r, n);
        store_n(c, v, n);
      }
    }
  }
}
using Finish = void (*)(const Epilogue&, const float*, int64_t, int, int64_t, int);
constexpr Finish kFinish[kActivations] = {finish<0>, finish<1>, finish<2>, finish<3>, finish<4>, finish<5>, finish<6>};

}  // namespace
}  // namespace accelcpu
#endif
