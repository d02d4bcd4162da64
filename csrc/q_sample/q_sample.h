// q_sample: z = alpha x + sigma eps with eps = philox_normal(seed, draw); writes z and eps.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct QSampleParams {
  const void* x;  // (batch, n) dtype
  void* z;        // (batch, n) dtype
  void* eps;      // (batch, n) dtype
  DType dtype;
  int64_t batch, n;     // n = elements per sample
  const float* logsnr;  // (batch,)
  const int64_t* seed;  // (batch,)
  const int64_t* draw;  // (1,)
  bool variance_preserving;
};

void q_sample_cpu(const QSampleParams& params);
void q_sample_cuda(const QSampleParams& params, void* stream);

}  // namespace vdm
