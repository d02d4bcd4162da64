// philox_normal, kStep elements at a time. Bound by arithmetic: about two cycles per element with AVX-512.
#include "philox_normal/philox_normal_simd.h"

#include "common/block_simd.h"
#include "common/philox_simd.h"

namespace vdm {
namespace VDM_ISA {

void philox_normal(const PhiloxNormalSample& sample, int64_t begin, int64_t end) {
  Block scratch;
  NormalGenerator noise(sample.seed, sample.draw, begin / 4);
  for (int64_t i = begin; i < end; i += kBlock) {
    const int count = static_cast<int>(end - i < kBlock ? end - i : kBlock);
    float* out = begin_block(sample.out, sample.dtype, i, count, scratch);
    const bool streams = sample.stream && can_stream(out) && out != scratch.values;
    for (int k = 0; k < count; k += kStep) {
      F32 normals[kVectors];
      noise.next(normals);
      for (int j = 0; j < kVectors; ++j) store_or_stream(out + k + j * kLanes, normals[j], streams);
    }
    write_block(sample.out, sample.dtype, i, count, scratch);
  }
  if (sample.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
