// The codes by which Python names element types and parameterizations.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace vdm {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// What the network predicts; v = alpha eps - sigma x.
enum class Parameterization : int { kEps = 0, kX = 1, kV = 2 };

constexpr VDM_HOST_DEVICE int64_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace vdm
