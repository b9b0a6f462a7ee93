#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace accelcpu {
namespace {

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
  bool amd = false, avx2 = false, avx512 = false, vnni = false, bf16 = false, amx = false;
  X86() {
    const Cpuid zero(0, 0), one(1, 0), seven(7, 0), more(7, 1);
    amd = zero.b == 0x68747541;  // "Auth", of "AuthenticAMD"
    if (!has(one.c, {27, 28})) return;  // OSXSAVE, AVX
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!has(low, {1, 2})) return;                                      // XMM, YMM
    avx2 = has(one.c, {12, 29}) && has(seven.b, {5});                   // FMA, F16C; AVX2
    avx512 = avx2 && has(low, {5, 6, 7}) && has(seven.b, {16, 17, 30, 31});  // masks, ZMM; F, DQ, BW, VL
    vnni = avx512 && has(seven.c, {11});
    bf16 = vnni && has(more.a, {5});
    amx = vnni && has(low, {17, 18}) && has(seven.d, {22, 24, 25}) && tiles_allowed();  // TILECFG, TILEDATA; AMX-BF16, AMX-TILE, AMX-INT8
  }

  // Linux gives a process tile registers when it asks.
  static bool tiles_allowed() {
#if defined(__linux__)
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
    return false;
#endif
  }
};
#endif

// Put together here, for no object's table may be made of another's before all are there.
struct Built {
  Isa isas[12] = {};
  int count = 0;

  void add(const Kernels& kernels, bool runs_here) { isas[count++] = {kernels, runs_here}; }
  void add(const char* name, Kernels kernels, const Int8Kernels* bytes, const Bf16Kernels* pairs, bool runs_here) {
    kernels.isa = name;
    if (bytes) {
      runs_here = runs_here && (!bytes->right || bytes->right());
      kernels.quantize_rows = bytes->quantize_rows;
      kernels.gemm_blocks_int8 = bytes->gemm_blocks_int8;
    }
    if (pairs) {
      runs_here = runs_here && pairs->right();
      kernels.gemm_bf16 = pairs->gemm_bf16;
      kernels.bf16_rows = pairs->rows;
    }
    add(kernels, runs_here);
  }
  Built() {
    add(kernels_baseline, true);
#if defined(__x86_64__)
    const X86 x86;
#if defined(ACCELCPU_TEST_ISAS)
    add(kernels_wide16_test, x86.avx2);
    add("avx512bf16-test", kernels_wide16_test, nullptr, &kernels_avx512bf16_test, x86.avx2);
    add("amx-test", kernels_wide16_test, &kernels_amx_test, &kernels_amx_test_bf16, x86.avx2);
#endif
    add(kernels_avx2, x86.avx2);
    add(kernels_avx512, x86.avx512);
    // Intel's processors multiply half as fast with vdpbf16ps as in f32, so that there it is left to who asks for it.
    const auto bf16 = [&] { add("avx512bf16", kernels_avx512, &kernels_avx512vnni, &kernels_avx512bf16, x86.bf16); };
    if (!x86.amd) bf16();
    add("avx512vnni", kernels_avx512, &kernels_avx512vnni, nullptr, x86.vnni);
    if (x86.amd) bf16();
    add("amx", kernels_avx512, &kernels_amx, &kernels_amx_bf16, x86.amx);
#elif defined(__aarch64__)
    add(kernels_neon, true);
#endif
  }
};

}  // namespace

IsaList isas() {
  static const Built built;
  return {built.isas, built.count};
}

}  // namespace accelcpu
