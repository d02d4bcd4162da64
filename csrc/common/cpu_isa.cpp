#include "common/cpu_isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#ifdef VDM_HAS_X86_ISAS
#  include <cpuid.h>
#endif

namespace vdm {
namespace {

CpuIsa best_cpu_isa() {
#ifdef VDM_HAS_X86_ISAS
  unsigned eax, ebx, ecx = 0, edx;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  // __builtin_cpu_supports also asks whether the operating system saves the registers.
  if (!(f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) return CpuIsa::kBaseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? CpuIsa::kAvx512 : CpuIsa::kAvx2;
#else
  return CpuIsa::kBaseline;
#endif
}

// The instruction set that `where` asks for; never another one in its place.
CpuIsa available_cpu_isa(const std::string& where, const char* name) {
  for (CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (std::strcmp(name, cpu_isa_name(isa)) != 0) continue;
    if (isa <= best_cpu_isa()) return isa;
    throw std::invalid_argument(where + ": the best that this CPU and build have is " +
                                cpu_isa_name(best_cpu_isa()) + ", got " + name);
  }
  throw std::invalid_argument(where + ": needs baseline, avx2 or avx512, got " + name);
}

CpuIsa initial_cpu_isa() {
  const char* name = std::getenv("VDM_CPU_ISA");
  return name == nullptr || *name == '\0' ? best_cpu_isa() : available_cpu_isa("VDM_CPU_ISA", name);
}

std::atomic<CpuIsa>& current_cpu_isa() {
  static std::atomic<CpuIsa> isa{initial_cpu_isa()};
  return isa;
}

}  // namespace

CpuIsa cpu_isa() { return current_cpu_isa().load(std::memory_order_relaxed); }

void set_cpu_isa(const char* name) { current_cpu_isa().store(available_cpu_isa("set_cpu_isa", name)); }

const char* cpu_isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace vdm
