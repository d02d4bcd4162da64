// q_sample in one pass: x is read once, z and eps are written once; the noise never leaves the registers
// before.
#include "q_sample/q_sample_simd.h"

#include "common/block_simd.h"
#include "common/philox_simd.h"

namespace vdm {
namespace VDM_ISA {

void q_sample(const QSample& sample, int64_t begin, int64_t end) {
  BlockReader x_blocks(sample.x, sample.dtype);
  BlockWriter z_blocks(sample.z, sample.dtype, sample.stream);
  BlockWriter eps_blocks(sample.eps, sample.dtype, sample.stream);
  NormalGenerator noise(sample.seed, sample.draw, begin / 4);
  const F32 alpha = splat(sample.alpha), sigma = splat(sample.sigma);
  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int count = block_size(offset, end);
    const float* x = x_blocks.read(offset, count);
    float* z = z_blocks.begin(offset, count);
    float* eps = eps_blocks.begin(offset, count);
    const bool streams = z_blocks.streams(z) && eps_blocks.streams(eps);
    for (int i = 0; i < count; i += kStep) {
      F32 normals[kVectors];
      noise.next(normals);
      for (int j = 0; j < kVectors; ++j) {
        const int k = i + j * kLanes;
        store_or_stream(z + k, fma(sigma, normals[j], alpha * load(x + k)), streams);
        store_or_stream(eps + k, normals[j], streams);
      }
    }
    z_blocks.finish(offset, count);
    eps_blocks.finish(offset, count);
  }
  if (sample.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
