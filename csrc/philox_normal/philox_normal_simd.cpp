// Bound by arithmetic: about two cycles per element with AVX-512.
#include "philox_normal/philox_normal_simd.h"

#include "common/block_simd.h"
#include "common/philox_simd.h"

namespace vdm {
namespace VDM_ISA {

void philox_normal(const PhiloxNormalSample& sample, int64_t begin, int64_t end) {
  BlockWriter out_blocks(sample.out, sample.dtype, sample.stream);
  NormalGenerator noise(sample.seed, sample.draw, begin / 4);
  for (int64_t offset = begin; offset < end; offset += kBlock) {
    const int count = block_size(offset, end);
    float* out = out_blocks.begin(offset, count);
    const bool streams = out_blocks.streams(out);
    for (int i = 0; i < count; i += kStep) {
      F32 normals[kVectors];
      noise.next(normals);
      for (int j = 0; j < kVectors; ++j) store_or_stream(out + i + j * kLanes, normals[j], streams);
    }
    out_blocks.finish(offset, count);
  }
  if (sample.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
