// AMX: products of bytes and of pairs of bf16 on tile registers. With TILES_EMULATED the same in plain C++, for machines that have none.
#ifndef ACCELCPU_TILES_H
#define ACCELCPU_TILES_H

#include "vec.h"

namespace accelcpu {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;  // of a tile register at its largest; there are eight

// What LDTILECFG reads.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int count, int bytes) {
    rows[tile] = static_cast<uint8_t>(count);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileShapes) == 64, "as the processor reads it");

#if !defined(TILES_EMULATED)

// The calling thread's tiles, until it releases them. The instructions are written out: gcc 12's intrinsic
// tells the compiler of eight bytes of the shapes only.
class Tiles {
 public:
  INLINE explicit Tiles(const TileShapes& s) { asm volatile("ldtilecfg %0" ::"m"(s)); }
  INLINE void release() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int T>
  INLINE void zero() { asm volatile("tilezero %%tmm%c0" ::"i"(T)); }
  template <int T>
  INLINE void load(const void* from, int64_t stride) { asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory"); }
  template <int T>
  INLINE void store(void* to, int64_t stride) { asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory"); }
  // C[i,j] += sum over k, l < 4 of A[i,4k+l] * B[k,4j+l], A with a sign and B without.
  template <int C, int A, int B>
  INLINE void multiply() { asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
  // C[i,j] += sum over k, l < 2 of A[i,2k+l] * B[k,2j+l], bf16 added up in f32.
  template <int C, int A, int B>
  INLINE void dot() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
};

#else

class Tiles {
 public:
  explicit Tiles(const TileShapes& s) : shapes_(s) {
    require(s.palette == 1 && s.start_row == 0);
    for (int i = 0; i < 16; i++) {
      require(s.rows[i] <= kTileRows && s.row_bytes[i] <= kTileBytes && (s.rows[i] == 0) == (s.row_bytes[i] == 0));
      require(i < 8 || s.rows[i] == 0);
    }
  }
  void release() {}
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int T>
  void zero() {
    require(shapes_.rows[T] > 0);
    std::memset(data_[T], 0, sizeof data_[T]);
  }
  template <int T>
  void load(const void* from, int64_t stride) {
    zero<T>();
    for (int i = 0; i < shapes_.rows[T]; i++) std::memcpy(data_[T][i], static_cast<const uint8_t*>(from) + i * stride, shapes_.row_bytes[T]);
  }
  template <int T>
  void store(void* to, int64_t stride) {
    require(shapes_.rows[T] > 0);
    for (int i = 0; i < shapes_.rows[T]; i++) std::memcpy(static_cast<uint8_t*>(to) + i * stride, data_[T][i], shapes_.row_bytes[T]);
  }
  template <int C, int A, int B>
  void multiply() {
    require_product<C, A, B>();
    for (int i = 0; i < shapes_.rows[C]; i++) {
      for (int j = 0; j < shapes_.row_bytes[C] / 4; j++) {
        int32_t sum;
        std::memcpy(&sum, data_[C][i] + 4 * j, 4);
        for (int k = 0; k < shapes_.rows[B]; k++)
          for (int l = 0; l < 4; l++) sum += static_cast<int8_t>(data_[A][i][4 * k + l]) * data_[B][k][4 * j + l];
        std::memcpy(data_[C][i] + 4 * j, &sum, 4);
      }
    }
  }
  template <int C, int A, int B>
  void dot() {
    require_product<C, A, B>();
    for (int i = 0; i < shapes_.rows[C]; i++) {
      for (int j = 0; j < shapes_.row_bytes[C] / 4; j++) {
        // The processor too keeps the sums of either side of the pairs apart.
        float sides[2] = {}, sum;
        for (int k = 0; k < shapes_.rows[B]; k++)
          for (int l = 0; l < 2; l++) sides[l] += bf16_at(data_[A][i] + 4 * k + 2 * l) * bf16_at(data_[B][k] + 4 * j + 2 * l);
        std::memcpy(&sum, data_[C][i] + 4 * j, 4);
        sum += sides[0] + sides[1];
        std::memcpy(data_[C][i] + 4 * j, &sum, 4);
      }
    }
  }

 private:
  static float bf16_at(const uint8_t* p) {
    const uint32_t bits = static_cast<uint32_t>(p[0]) << 16 | static_cast<uint32_t>(p[1]) << 24;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }
  template <int C, int A, int B>
  void require_product() {
    static_assert(C != A && A != B && B != C, "or the processor refuses");
    require(shapes_.rows[C] > 0 && shapes_.rows[C] == shapes_.rows[A] && shapes_.row_bytes[C] == shapes_.row_bytes[B] && shapes_.row_bytes[A] == 4 * shapes_.rows[B]);
  }
  // What the processor would refuse with a fault.
  static void require(bool holds) {
    if (!holds) __builtin_trap();
  }
  TileShapes shapes_;
  uint8_t data_[8][kTileRows][kTileBytes];
};

#endif

// Sums of products of a unit of bytes: sums[i][half*16 + j] over `Steps` steps of A[i, 4*Steps], rows lda apart, and the steps of
// 16 columns of either half, [2][Steps][64].
constexpr int kTilesRows = 2 * kTileRows;  // of A, the most

struct TilesSums {
  alignas(64) int32_t of[kTilesRows][2 * kTileRows];
};

// Tiles 0 to 3 are sums, of two halves of rows by two of columns; 4 and 5 A's, 6 and 7 B's.
template <int Steps>
INLINE TileShapes tile_shapes(int rows) {
  TileShapes s;
  const int first = rows > kTileRows ? (rows + 1) / 2 : rows, second = rows - first;
  for (int half = 0; half < 2; half++) {
    s.set(half, first, kTileBytes);
    if (second > 0) s.set(2 + half, second, kTileBytes);
    s.set(6 + half, Steps, kTileBytes);
  }
  s.set(4, first, 4 * Steps);
  if (second > 0) s.set(5, second, 4 * Steps);
  return s;
}

template <int Steps>
INLINE void tile_sums(Tiles& t, int rows, const int8_t* a, int64_t lda, const uint8_t* steps, TilesSums& sums) {
  constexpr int64_t kStride = sizeof sums.of[0];
  const int first = rows > kTileRows ? (rows + 1) / 2 : rows;
  t.load<4>(a, lda);
  t.load<6>(steps, kTileBytes);
  t.zero<0>();
  t.multiply<0, 4, 6>();
  t.load<7>(steps + Steps * kTileBytes, kTileBytes);
  t.zero<1>();
  t.multiply<1, 4, 7>();
  if (rows > kTileRows) {
    t.load<5>(a + first * lda, lda);
    t.zero<2>();
    t.multiply<2, 5, 6>();
    t.zero<3>();
    t.multiply<3, 5, 7>();
    t.store<2>(sums.of[first], kStride);
    t.store<3>(sums.of[first] + kTileRows, kStride);
  }
  t.store<0>(sums.of[0], kStride);
  t.store<1>(sums.of[0] + kTileRows, kStride);
}

// Whether tile registers compute what they are thought to: a check of this machine, and of the above.
template <int Steps>
bool tile_sums_agree(int rows) {
  alignas(64) int8_t a[kTilesRows][4 * Steps];
  alignas(64) uint8_t steps[2][Steps][kTileBytes];
  uint32_t state = 1;
  const auto next = [&] { return state = state * 1664525u + 1013904223u, state >> 24; };
  for (auto& row : a)
    for (int8_t& v : row) v = static_cast<int8_t>(static_cast<int>(next() % 255) - 127);
  for (auto& half : steps)
    for (auto& step : half)
      for (uint8_t& v : step) v = static_cast<uint8_t>(next());
  TilesSums sums;
  std::memset(&sums, 0x5a, sizeof sums);
  const TileShapes shapes = tile_shapes<Steps>(rows);
  Tiles t(shapes);
  tile_sums<Steps>(t, rows, a[0], sizeof a[0], steps[0][0], sums);
  t.release();
  for (int i = 0; i < kTilesRows; i++) {
    for (int j = 0; j < 2 * kTileRows; j++) {
      int32_t want = 0x5a5a5a5a;
      if (i < rows) {
        want = 0;
        for (int k = 0; k < 4 * Steps; k++) want += a[i][k] * steps[j / 16][k / 4][j % 16 * 4 + k % 4];
      }
      if (sums.of[i][j] != want) return false;
    }
  }
  return true;
}

bool tiles_agree() {
  for (int rows : {16, 17, 31, 32}) {
    if (!tile_sums_agree<8>(rows) || !tile_sums_agree<4>(rows)) return false;
  }
  return true;
}

}  // namespace
}  // namespace accelcpu
#endif
