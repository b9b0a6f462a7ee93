// Strided copies and gathering.
#include <cstring>

#include "kernels.h"

namespace accelcpu {
namespace {

constexpr int64_t kTaskBytes = 1 << 16;

// The dimensions of a copy that are left when those of size 1 are dropped and those that both
// sides step over without a gap are joined.
struct CopyShape {
  int rank = 0;
  int64_t dims[ACCELCPU_COPY_RANK], src[ACCELCPU_COPY_RANK], dst[ACCELCPU_COPY_RANK];
  int64_t count = 1;

  explicit CopyShape(const accelcpu_copy& o) {
    for (uint32_t i = 0; i < o.rank; i++) {
      count *= o.dims[i];
      if (o.dims[i] == 1) continue;
      const bool joins = rank > 0 && src[rank - 1] == o.src_stride[i] * o.dims[i] && dst[rank - 1] == o.dst_stride[i] * o.dims[i];
      if (!joins) dims[rank++] = 1;
      dims[rank - 1] *= o.dims[i];
      src[rank - 1] = o.src_stride[i];
      dst[rank - 1] = o.dst_stride[i];
    }
  }
  // Takes dimension i out and gives it back as {size, source stride, destination stride}.
  struct Dim { int64_t size, src, dst; };
  Dim take(int i) {
    const Dim d{dims[i], src[i], dst[i]};
    for (rank--; i < rank; i++) dims[i] = dims[i + 1], src[i] = src[i + 1], dst[i] = dst[i + 1];
    return d;
  }
};

// Rows of the dimension `x`, for every index of the rest and of `y`; where the source is dense
// along y, a tile at a time, so that each line of either side is fetched once.
template <class T>
void copy_elements(Workers& w, CopyShape rest, CopyShape::Dim x, CopyShape::Dim y, const char* src, char* dst) {
  constexpr int64_t kTile = 16;
  int64_t outer = 1;
  for (int i = 0; i < rest.rank; i++) outer *= rest.dims[i];
  const int64_t rows = (y.size + kTile - 1) / kTile, bytes = x.size * kTile * static_cast<int64_t>(sizeof(T));
  const int64_t total = outer * rows, per_task = bytes > kTaskBytes ? 1 : kTaskBytes / bytes;
  w.each((total + per_task - 1) / per_task, [&](int64_t task, void*) {
    const int64_t end = total < (task + 1) * per_task ? total : (task + 1) * per_task;
    for (int64_t at = task * per_task; at < end; at++) {
      const T* s = reinterpret_cast<const T*>(src);
      T* d = reinterpret_cast<T*>(dst);
      for (int64_t i = rest.rank - 1, n = at / rows; i >= 0; n /= rest.dims[i--]) {
        s += n % rest.dims[i] * rest.src[i];
        d += n % rest.dims[i] * rest.dst[i];
      }
      const int64_t y0 = at % rows * kTile, y1 = y.size < y0 + kTile ? y.size : y0 + kTile;
      if (x.src == 1 && x.dst == 1) {
        for (int64_t j = y0; j < y1; j++) std::memcpy(d + j * y.dst, s + j * y.src, static_cast<size_t>(x.size) * sizeof(T));
        continue;
      }
      for (int64_t x0 = 0; x0 < x.size; x0 += kTile) {
        const int64_t x1 = x.size < x0 + kTile ? x.size : x0 + kTile;
        for (int64_t j = y0; j < y1; j++)
          for (int64_t i = x0; i < x1; i++) d[j * y.dst + i * x.dst] = s[j * y.src + i * x.src];
      }
    }
  });
}

}  // namespace

void copy(Workers& w, const accelcpu_copy& o, const CopyData& data) {
  CopyShape shape(o);
  if (shape.count == 0) return;
  CopyShape::Dim x{1, 1, 1}, y{1, 0, 0};
  if (shape.rank > 0) x = shape.take(shape.rank - 1);
  if (shape.rank > 0) {
    int dense = shape.rank - 1;
    for (int i = 0; i < shape.rank; i++) {
      if (shape.src[i] == 1) dense = i;
    }
    y = shape.take(dense);
  } else if (x.src == 1 && x.dst == 1 && x.size * o.elem_bytes > kTaskBytes) {
    // One long run: cut, so that every thread gets some. The rest, if any, is the last of its rows.
    const int64_t piece = kTaskBytes / 16 / o.elem_bytes, whole = x.size / piece;
    const int64_t done = whole * piece * o.elem_bytes;
    std::memcpy(data.dst + done, data.src + done, static_cast<size_t>(x.size * o.elem_bytes - done));
    x.size = piece;
    y = {whole, piece, piece};
  }
  switch (o.elem_bytes) {
    case 1: return copy_elements<uint8_t>(w, shape, x, y, data.src, data.dst);
    case 2: return copy_elements<uint16_t>(w, shape, x, y, data.src, data.dst);
    case 4: return copy_elements<uint32_t>(w, shape, x, y, data.src, data.dst);
    case 8: return copy_elements<uint64_t>(w, shape, x, y, data.src, data.dst);
  }
}

// The indices were checked.
void gather(Workers& w, const accelcpu_gather& o, const GatherData& d) {
  const int64_t rows = o.outer * o.count, per_task = o.inner > kTaskBytes ? 1 : kTaskBytes / (o.inner + 1) + 1;
  w.each((rows + per_task - 1) / per_task, [&](int64_t task, void*) {
    const int64_t end = rows < (task + 1) * per_task ? rows : (task + 1) * per_task;
    for (int64_t row = task * per_task; row < end; row++) {
      const int64_t at = row % o.count;
      int64_t i = o.index_type == ACCELCPU_I64 ? static_cast<const int64_t*>(d.index)[at] : static_cast<const int32_t*>(d.index)[at];
      if (i < 0) i += o.axis;
      std::memcpy(d.y + row * o.inner, d.data + (row / o.count * o.axis + i) * o.inner, static_cast<size_t>(o.inner));
    }
  });
}

}  // namespace accelcpu
