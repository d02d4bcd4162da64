// abs_quantile: the exact q-quantile of |x| per sample, with linear interpolation between order statistics.
//
//     position = q (n - 1);  out = lerp(|x|_(floor position), |x|_(floor position + 1), position - floor
//     position)
//
// A sample with a NaN gives NaN.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace vdm {

struct AbsQuantileParams {
  const void* x;  // (batch, n) dtype
  float* out;     // (batch,)
  DType dtype;
  int64_t batch, n;  // n = elements per sample
  double q;          // in [0, 1]
};

void abs_quantile_cpu(const AbsQuantileParams& params);

// The CUDA launcher keeps its histograms in device memory that the caller provides; contents need no
// initialization.
int64_t abs_quantile_cuda_workspace_bytes(int64_t batch);
void abs_quantile_cuda(const AbsQuantileParams& params, void* workspace, int64_t workspace_bytes,
                       void* stream);

}  // namespace vdm
