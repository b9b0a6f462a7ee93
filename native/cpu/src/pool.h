// The thread pool: N-1 workers and whoever calls.
#ifndef ACCELCPU_POOL_H
#define ACCELCPU_POOL_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace accelcpu {

// Bytes of scratch that each task may use; 64-byte aligned, contents arbitrary.
constexpr int64_t kScratchBytes = 1 << 20;

// fn(arg, index, scratch) for one index of a parallel region.
using Task = void (*)(void* arg, int64_t index, void* scratch);

class Pool {
 public:
  // threads >= 1, the caller's included. Throws std::system_error or bad_alloc.
  Pool(int threads, bool pin, int spin_us);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const;

  // Runs every index in [0, count), on all threads if they are free, else on this one
  // alone, and returns when all are done.
  void run(int64_t count, Task fn, void* arg, void* scratch);

 private:
  void work(int id, bool pin);
  void drain(void* scratch);
  void stop();

  // One word holds the whole region protocol, so that joining is one
  // compare-and-swap. Bit 0: open; the next 15: workers inside; the rest: the
  // region's number. A worker enters an open region that it has not been in; the caller
  // closes it once the indices are given out, and waits for those inside. A worker
  // that wakes up late is waited for by nobody.
  static constexpr uint64_t kOpen = 1, kInside = 2, kInsideMask = 0xfffe, kNumber = 0x10000;
  static bool fresh(uint64_t region, uint64_t last) { return (region & kOpen) && region / kNumber != last; }
  alignas(64) std::atomic<uint64_t> region_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<bool> busy_{false};
  int64_t count_ = 0;
  Task fn_ = nullptr;
  void* arg_ = nullptr;

  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  int64_t spin_ns_;
  std::vector<std::thread> workers_;
};

// Processors of this process, hyper-threads of one core counted once. At least 1.
int physical_cores();

// 64-byte aligned memory; null if there is none.
void* aligned_allocate(int64_t bytes);
void aligned_release(void*);

}  // namespace accelcpu
#endif
