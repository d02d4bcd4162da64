// Which instruction set the CPU kernels use, and how a launcher calls them.
//
// A kernel <name>_simd.cpp is compiled once per instruction set, each time in its own namespace (VDM_ISA), so
// that no function compiled with AVX-512 can be linked in place of the same function compiled without. Its
// header declares it with VDM_DECLARE_SIMD, and the launcher, compiled without instruction set flags, calls
// VDM_SIMD(name)(...).
#pragma once

namespace vdm {

enum class CpuIsa : int { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The best one that this CPU has and VDM_CPU_ISA (baseline, avx2, avx512) allows, or what set_cpu_isa set.
CpuIsa cpu_isa();

// Throws std::invalid_argument where the CPU or the build lacks it.
void set_cpu_isa(CpuIsa isa);

const char* cpu_isa_name(CpuIsa isa);
CpuIsa cpu_isa_from_name(const char* name);  // throws std::invalid_argument

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
