#include "pool.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <malloc.h>
#endif

namespace accelcpu {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int64_t now_ns() {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

void pin_to(int nth) {
#if defined(__linux__)
  cpu_set_t have, want;
  if (sched_getaffinity(0, sizeof have, &have) != 0) return;
  CPU_ZERO(&want);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &have) && nth-- == 0) {
      CPU_SET(cpu, &want);
      pthread_setaffinity_np(pthread_self(), sizeof want, &want);
      return;
    }
  }
#else
  (void)nth;
#endif
}

}  // namespace

void* aligned_allocate(int64_t bytes) {
#if defined(_WIN32)
  return _aligned_malloc(static_cast<size_t>(bytes), 64);
#else
  void* p = nullptr;
  return posix_memalign(&p, 64, static_cast<size_t>(bytes)) == 0 ? p : nullptr;
#endif
}

void aligned_release(void* p) {
#if defined(_WIN32)
  _aligned_free(p);
#else
  free(p);
#endif
}

int physical_cores() {
  int logical = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t have;
  if (sched_getaffinity(0, sizeof have, &have) == 0) {
    std::set<std::string> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
      if (!CPU_ISSET(cpu, &have)) continue;
      char path[96], line[128] = "";
      std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
      std::FILE* f = std::fopen(path, "r");
      bool read = f && std::fgets(line, sizeof line, f);
      if (f) std::fclose(f);
      cores.insert(read ? line : path);  // without topology every processor is a core
    }
    if (!cores.empty()) return static_cast<int>(cores.size());
  }
#elif defined(__APPLE__)
  int n = 0;
  size_t size = sizeof n;
  if (sysctlbyname("hw.perflevel0.physicalcpu", &n, &size, nullptr, 0) == 0 && n > 0) return n;
  if (sysctlbyname("hw.physicalcpu", &n, &size, nullptr, 0) == 0 && n > 0) return n;
#endif
  return logical > 0 ? logical : 1;
}

Pool::Pool(int threads, bool pin, int spin_us) : spin_ns_(int64_t{1000} * spin_us) {
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back(&Pool::work, this, i, pin);
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (auto& t : workers_) t.join();
}

int Pool::threads() const { return static_cast<int>(workers_.size()) + 1; }

void Pool::run(int64_t count, Task fn, void* arg, void* scratch) {
  if (count <= 1 || workers_.empty() || busy_.exchange(true, std::memory_order_acquire)) {
    for (int64_t i = 0; i < count; i++) fn(arg, i, scratch);
    return;
  }
  count_ = count;
  fn_ = fn;
  arg_ = arg;
  next_.store(0, std::memory_order_relaxed);
  const uint64_t number = region_.load(std::memory_order_relaxed) / kNumber + 1;
  region_.store(number * kNumber | kOpen, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }  // a worker between its last look and its sleep holds it
    wake_.notify_all();
  }
  drain(scratch);
  region_.fetch_and(~kOpen, std::memory_order_relaxed);
  for (int spins = 0; region_.load(std::memory_order_acquire) & kInsideMask; spins++) {
    if (spins < 10000) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
  busy_.store(false, std::memory_order_release);
}

void Pool::drain(void* scratch) {
  const int64_t count = count_;
  for (;;) {
    int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= count) return;
    fn_(arg_, i, scratch);
  }
}

void Pool::work(int id, bool pin) {
  if (pin) pin_to(id);
  void* scratch = aligned_allocate(kScratchBytes);
  if (!scratch) return;  // the pool goes on with those that have some
  uint64_t last = 0;     // the region that this worker was in last
  while (!stop_.load(std::memory_order_relaxed)) {
    uint64_t seen = region_.load(std::memory_order_relaxed);
    if (fresh(seen, last)) {
      if (!region_.compare_exchange_weak(seen, seen + kInside, std::memory_order_acquire)) continue;
      last = seen / kNumber;
      drain(scratch);
      region_.fetch_sub(kInside, std::memory_order_release);
    }
    const int64_t until = now_ns() + spin_ns_;
    bool open = false;
    do {
      for (int i = 0; i < 64 && !open; i++) {
        open = fresh(region_.load(std::memory_order_relaxed), last);
        if (!open) relax();
      }
    } while (!open && now_ns() < until);
    if (open) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return stop_.load() || fresh(region_.load(std::memory_order_seq_cst), last); });
    sleeping_.fetch_sub(1, std::memory_order_relaxed);
  }
  aligned_release(scratch);
}

}  // namespace accelcpu
