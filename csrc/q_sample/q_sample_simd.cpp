// q_sample in one pass: x is read once, z and eps are written once; the noise never leaves the registers
// before.
#include "q_sample/q_sample_simd.h"

#include "common/block_simd.h"
#include "common/philox_simd.h"

namespace vdm {
namespace VDM_ISA {

void q_sample(const QSample& sample, int64_t begin, int64_t end) {
  Block x_scratch, z_scratch, eps_scratch;
  NormalGenerator noise(sample.seed, sample.draw, begin / 4);
  const F32 alpha = splat(sample.alpha), sigma = splat(sample.sigma);
  for (int64_t i = begin; i < end; i += kBlock) {
    const int count = static_cast<int>(end - i < kBlock ? end - i : kBlock);
    const float* x = read_block(sample.x, sample.dtype, i, count, x_scratch);
    float* z = begin_block(sample.z, sample.dtype, i, count, z_scratch);
    float* eps = begin_block(sample.eps, sample.dtype, i, count, eps_scratch);
    const bool streams = sample.stream && can_stream(z) && can_stream(eps) && z != z_scratch.values;
    for (int k = 0; k < count; k += kStep) {
      F32 normals[kVectors];
      noise.next(normals);
      for (int j = 0; j < kVectors; ++j) {
        const int lane = k + j * kLanes;
        prefetch(x + lane + kPrefetch);
        store_or_stream(z + lane, fma(sigma, normals[j], alpha * load(x + lane)), streams);
        store_or_stream(eps + lane, normals[j], streams);
      }
    }
    write_block(sample.z, sample.dtype, i, count, z_scratch);
    write_block(sample.eps, sample.dtype, i, count, eps_scratch);
  }
  if (sample.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
