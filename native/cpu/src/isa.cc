#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace accelcpu {
namespace {

const Kernels* const kBuilt[] = {
    &kernels_baseline,
#if defined(ACCELCPU_TEST_ISAS) && defined(__x86_64__)
    &kernels_wide16_test,
#endif
#if defined(__x86_64__)
    &kernels_avx2,
    &kernels_avx512,
#elif defined(__aarch64__)
    &kernels_neon,
#endif
};

#if defined(__x86_64__)
struct Cpuid {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  Cpuid(uint32_t leaf, uint32_t sub) {
    if (!__get_cpuid_count(leaf, sub, &a, &b, &c, &d)) a = b = c = d = 0;
  }
};
constexpr bool has(uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits) {
    if (!(word >> bit & 1)) return false;
  }
  return true;
}

// The processor's features count only where the system keeps their registers (XCR0).
struct X86 {
  bool avx2 = false, avx512 = false;
  X86() {
    const Cpuid one(1, 0), seven(7, 0);
    if (!has(one.c, {27, 28})) return;  // OSXSAVE, AVX
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!has(low, {1, 2})) return;                                      // XMM, YMM
    avx2 = has(one.c, {12, 29}) && has(seven.b, {5});                   // FMA, F16C; AVX2
    avx512 = avx2 && has(low, {5, 6, 7}) && has(seven.b, {16, 17, 30, 31});  // masks, ZMM; F, DQ, BW, VL
  }
};
#endif

}  // namespace

IsaList isas() { return {kBuilt, static_cast<int>(sizeof kBuilt / sizeof kBuilt[0])}; }

bool runs_here(const Kernels& k) {
#if defined(__x86_64__)
  static const X86 x86;
  if (&k == &kernels_avx512) return x86.avx512;
  if (&k != &kernels_baseline) return x86.avx2;
#endif
  (void)k;
  return true;
}

}  // namespace accelcpu
