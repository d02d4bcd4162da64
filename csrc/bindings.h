// What the files that define the module vdm_kernels._C share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "common/group_norm.h"

namespace vdm {

using Address = uintptr_t;

template <typename T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline GroupNorm group_norm(Address statistics, Address weight, Address bias, Address scale, Address shift,
                            int64_t batch, int64_t frames, int64_t channels, int64_t groups,
                            int64_t modulation_frames, bool video, double eps) {
  return {pointer<Statistic>(statistics),
          pointer<float>(weight),
          pointer<float>(bias),
          pointer<float>(scale),
          pointer<float>(shift),
          batch,
          frames,
          channels,
          groups,
          modulation_frames,
          video,
          eps};
}

// statistics, weight, bias, scale, shift, batch, frames, channels, groups, modulation_frames, video, eps
using GroupNormArgs = std::tuple<Address, Address, Address, Address, Address, int64_t, int64_t, int64_t,
                                 int64_t, int64_t, bool, double>;

inline GroupNorm conv_norm(const GroupNormArgs& args) {
  return std::apply([](auto... arg) { return group_norm(arg...); }, args);
}

// The CUDA launchers of channel_statistics, group_norm_silu and group_norm_silu_conv.
void define_norm_cuda(pybind11::module_& m);

}  // namespace vdm
