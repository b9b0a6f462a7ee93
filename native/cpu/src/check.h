// The checks of an operation's sizes and operands, before it runs.
#ifndef ACCELCPU_CHECK_H
#define ACCELCPU_CHECK_H

#include <cstdarg>
#include <cstdint>
#include <cstdio>

#include "kernels.h"

namespace accelcpu {

constexpr int64_t kMaxSize = int64_t{1} << 40;  // elements of one dimension, or a stride
constexpr int64_t kMaxHeadDim = 1024;

inline __attribute__((format(printf, 5, 6))) int32_t fail(accelcpu_result* result, accelcpu_code code, int64_t value, int64_t limit, const char* format, ...) {
  if (result) {
    result->code = code;
    result->value = value;
    result->limit = limit;
    va_list args;
    va_start(args, format);
    std::vsnprintf(result->text, sizeof result->text, format, args);
    va_end(args);
  }
  return code;
}

// How far an operand reaches, in elements from where it begins.
class Extent {
 public:
  Extent& dim(int64_t size, int64_t stride) {
    if (size == 0) empty_ = true;
    if (size <= 1) return *this;
    int64_t span;
    overflow_ |= __builtin_mul_overflow(size - 1, stride, &span);
    int64_t& end = span < 0 ? low_ : high_;
    overflow_ |= __builtin_add_overflow(end, span, &end);
    return *this;
  }
  // First and last byte relative to the beginning, for elements of so many bytes; false if they can't be counted.
  bool bytes(int64_t each, int64_t* low, int64_t* high) const {
    if (empty_) return *low = *high = 0, true;
    if (overflow_) return false;
    int64_t top;
    return !__builtin_mul_overflow(low_, each, low) && !__builtin_add_overflow(high_, 1, &top) && !__builtin_mul_overflow(top, each, high);
  }

 private:
  int64_t low_ = 0, high_ = 0;
  bool empty_ = false, overflow_ = false;
};

// Checks one operation and finds its operands. After the first thing that is wrong the rest
// of the checks do nothing, so that they need no branches of their own.
class Checker {
 public:
  Checker(const accelcpu_run_args& args, accelcpu_result* result, const char* op) : args_(args), result_(result), op_(op) {}
  bool ok() const { return ok_; }

  void require(bool good, accelcpu_code code, const char* what, int64_t value) {
    if (!ok_ || good) return;
    ok_ = false;
    fail(result_, code, 0, 0, "%s: %s (%lld)", op_, what, static_cast<long long>(value));
  }
  void size(const char* name, int64_t v, int64_t least = 0) {
    if (!ok_ || (v >= least && v <= kMaxSize)) return;
    ok_ = false;
    fail(result_, ACCELCPU_INVALID, 0, 0, "%s: %s is %lld, not within %lld and 2^40", op_, name, static_cast<long long>(v), static_cast<long long>(least));
  }
  void stride(const char* name, int64_t v, int64_t least = -kMaxSize) {
    if (!ok_ || (v >= least && v <= kMaxSize)) return;
    ok_ = false;
    fail(result_, ACCELCPU_INVALID, 0, 0, "%s: %s is %lld, not within %lld and 2^40", op_, name, static_cast<long long>(v), static_cast<long long>(least));
  }

  void refuse(accelcpu_code code, int64_t value, int64_t limit, const char* what, int64_t at) {
    if (!ok_) return;
    ok_ = false;
    fail(result_, code, value, limit, "%s: %s[%lld] is %lld, of %lld", op_, what, static_cast<long long>(at), static_cast<long long>(value), static_cast<long long>(limit));
  }
  // Bytes from where an operand begins to the end of its buffer; 0 if it is absent or begins outside.
  int64_t available(const accelcpu_ref& ref) const {
    if (ref.buffer == 0 || ref.buffer >= static_cast<uint64_t>(args_.buffer_count) || ref.offset < 0) return 0;
    const int64_t bytes = args_.buffers[ref.buffer].bytes - ref.offset;
    return bytes < 0 ? 0 : bytes;
  }

  // The address of an operand, whose whole extent lies in its buffer.
  template <class T>
  T* optional(const char* name, const accelcpu_ref& ref, const Extent& extent, int64_t each = sizeof(T)) {
    return ref.buffer == 0 ? nullptr : static_cast<T*>(find(name, ref, extent, each));
  }
  template <class T>
  T* required(const char* name, const accelcpu_ref& ref, const Extent& extent, int64_t each = sizeof(T)) {
    if (ok_ && ref.buffer == 0) {
      ok_ = false;
      fail(result_, ACCELCPU_INVALID, 0, 0, "%s: %s is absent", op_, name);
    }
    return ok_ ? static_cast<T*>(find(name, ref, extent, each)) : nullptr;
  }

 private:
  void* find(const char* name, const accelcpu_ref& ref, const Extent& extent, int64_t each) {
    if (!ok_) return nullptr;
    if (ref.buffer >= static_cast<uint64_t>(args_.buffer_count)) {
      ok_ = false;
      fail(result_, ACCELCPU_BOUNDS, ref.buffer, args_.buffer_count, "%s: %s lies in buffer %u, there are %lld", op_, name, ref.buffer, static_cast<long long>(args_.buffer_count));
      return nullptr;
    }
    const accelcpu_buffer& b = args_.buffers[ref.buffer];
    int64_t low = 0, high = INT64_MAX;
    if (!extent.bytes(each, &low, &high) || ref.offset < 0 || __builtin_add_overflow(high, ref.offset, &high) || __builtin_add_overflow(low, ref.offset, &low) || low < 0 || high > b.bytes) {
      ok_ = false;
      fail(result_, ACCELCPU_BOUNDS, high, b.bytes, "%s: %s takes bytes %lld to %lld of buffer %u, which has %lld", op_, name, static_cast<long long>(low), static_cast<long long>(high), ref.buffer,
           static_cast<long long>(b.bytes));
      return nullptr;
    }
    char* p = static_cast<char*>(b.data) + ref.offset;
    if (high > low && (b.data == nullptr || reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(each > 8 ? 1 : each) != 0)) {
      ok_ = false;
      fail(result_, ACCELCPU_INVALID, 0, 0, "%s: %s is null or not aligned to its elements of %lld bytes", op_, name, static_cast<long long>(each));
      return nullptr;
    }
    return p;
  }

  const accelcpu_run_args& args_;
  accelcpu_result* result_;
  const char* op_;
  bool ok_ = true;
};

inline Extent dense(int64_t n) { return Extent().dim(n, 1); }
inline Extent matrix(int64_t rows, int64_t columns, int64_t ld) { return Extent().dim(rows, ld).dim(columns, 1); }
// [a, b, c] without gaps.
inline Extent dense3(int64_t a, int64_t b, int64_t c) {
  int64_t ab, abc;
  if (__builtin_mul_overflow(a, b, &ab) || __builtin_mul_overflow(ab, c, &abc)) return Extent().dim(INT64_MAX, INT64_MAX);
  return dense(abc);
}

// The first index of n that is not in [low, high) becomes the operation's failure.
inline void check_indices(Workers& w, const void* index, uint32_t type, int64_t n, int64_t low, int64_t high) {
  for (int64_t i = 0; i < n; i++) {
    const int64_t v = type == ACCELCPU_I64 ? static_cast<const int64_t*>(index)[i] : static_cast<const int32_t*>(index)[i];
    if (v < low || v >= high) return w.fault.set(ACCELCPU_INDEX, v, high);
  }
}

// Checks and runs of operations that have a file of their own.
void run(Checker&, const Kernels&, Workers&, const accelcpu_paged&);
void run(Checker&, const Kernels&, Workers&, const accelcpu_rope&);
void run(Checker&, const Kernels&, Workers&, const accelcpu_pack_blocks&);
void run(Checker&, const Kernels&, Workers&, const accelcpu_quantize_rows&);
void run(Checker&, const Kernels&, Workers&, const accelcpu_gemm_blocks&);
void run(Checker&, const Kernels&, Workers&, const accelcpu_gather_blocks&);

// Bytes of a packed [n,k] weight in blocks, or -1 for what can't be.
int64_t packed_blocks_bytes(const Kernels&, const accelcpu_blocks&, int64_t n, int64_t k);

}  // namespace accelcpu
#endif
