// Which instruction set the CPU kernels use, and how a launcher calls them.
//
// A kernel <name>_simd.cpp is compiled once per instruction set, each time in its own namespace (VDM_ISA), so
// that no function compiled with AVX-512 can be linked in place of the same function compiled without. Its
// header declares it with VDM_DECLARE_SIMD, and the launcher, compiled without instruction set flags, calls
// VDM_SIMD(name)(...).
#pragma once

namespace vdm {

enum class CpuIsa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best one that this CPU has, or the one that VDM_CPU_ISA or set_cpu_isa names. Throws
// std::invalid_argument where VDM_CPU_ISA names none that is available.
CpuIsa cpu_isa();

// Names are baseline, avx2 and avx512. Throws std::invalid_argument where the CPU or the build lacks it.
void set_cpu_isa(const char* name);

const char* cpu_isa_name(CpuIsa isa);

}  // namespace vdm

#ifdef VDM_HAS_X86_ISAS
#  define VDM_DECLARE_SIMD(name, parameters) \
    namespace baseline {                     \
    void name parameters;                    \
    }                                        \
    namespace avx2 {                         \
    void name parameters;                    \
    }                                        \
    namespace avx512 {                       \
    void name parameters;                    \
    }
#  define VDM_SIMD(name)                                       \
    (::vdm::cpu_isa() == ::vdm::CpuIsa::kAvx512 ? avx512::name \
     : ::vdm::cpu_isa() == ::vdm::CpuIsa::kAvx2 ? avx2::name   \
                                                : baseline::name)
#else
#  define VDM_DECLARE_SIMD(name, parameters) \
    namespace baseline {                     \
    void name parameters;                    \
    }
#  define VDM_SIMD(name) (baseline::name)
#endif
