// philox_normal: standard normals from (seed, draw, element index); see common/philox.h.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct PhiloxNormalParams {
  void* out;  // (batch, n) dtype
  DType dtype;
  int64_t batch, n;     // n = elements per sample
  const int64_t* seed;  // (batch,)
  const int64_t* draw;  // (1,)
};

void philox_normal_cpu(const PhiloxNormalParams& params);
void philox_normal_cuda(const PhiloxNormalParams& params, void* stream);

}  // namespace vdm
