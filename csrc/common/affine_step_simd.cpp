// The affine step, kStep elements at a time: the arithmetic of the noise (about 130 cycles per 64 elements
// with AVX-512) hides behind the memory traffic of two loads and one store (about 180 cycles at copy
// bandwidth), because the next elements' Philox rounds depend on nothing. Inputs are prefetched, the output
// is streamed.
#include "common/affine_step.h"
#include "common/block_simd.h"
#include "common/philox_simd.h"

namespace vdm {
namespace VDM_ISA {

struct AffineBlock {
  const float* z;
  const float* prediction;
  const float* uncond;
  float* out;
  int count;  // multiple of kStep
  bool streams;
};

template <bool has_uncond, bool has_limit, bool has_noise>
VDM_INLINE void affine_block(const AffineStep& step, const AffineBlock& block, NormalGenerator& noise) {
  const F32 z_weight = splat(step.z_weight), prediction_weight = splat(step.prediction_weight);
  const F32 uncond_weight = splat(step.uncond_weight), noise_scale = splat(step.noise_scale);
  const F32 z_scale = splat(step.z_scale), x_scale = splat(step.x_scale), limit = splat(step.limit);
  for (int i = 0; i < block.count; i += kStep) {
    F32 normals[kVectors];
    if (has_noise) noise.next(normals);
    for (int j = 0; j < kVectors; ++j) {
      const int k = i + j * kLanes;
      prefetch(block.z + k + kPrefetch);
      prefetch(block.prediction + k + kPrefetch);
      if (has_uncond) prefetch(block.uncond + k + kPrefetch);
      const F32 z = load(block.z + k);
      F32 out = fma(z_weight, z, prediction_weight * load(block.prediction + k));
      if (has_uncond) out = fma(uncond_weight, load(block.uncond + k), out);
      if (has_limit) out = fma(x_scale, clip(out, limit), z_scale * z);
      if (has_noise) out = fma(noise_scale, normals[j], out);
      store_or_stream(block.out + k, out, block.streams);
    }
  }
}

template <bool has_uncond, bool has_limit, bool has_noise>
static void affine_chunk(const AffineStep& step, int64_t begin, int64_t end) {
  Block z, prediction, uncond, out;
  NormalGenerator noise(step.seed, step.draw, begin / 4);
  for (int64_t i = begin; i < end; i += kBlock) {
    const int count = static_cast<int>(end - i < kBlock ? end - i : kBlock);
    AffineBlock block;
    block.z = read_block(step.z, step.z_dtype, i, count, z);
    block.prediction = read_block(step.prediction, step.prediction_dtype, i, count, prediction);
    block.uncond = has_uncond ? read_block(step.uncond, step.prediction_dtype, i, count, uncond) : nullptr;
    block.out = begin_block(step.out, step.z_dtype, i, count, out);
    block.count = (count + kStep - 1) / kStep * kStep;
    block.streams = step.stream && can_stream(block.out) && block.out != out.values;
    affine_block<has_uncond, has_limit, has_noise>(step, block, noise);
    write_block(step.out, step.z_dtype, i, count, out);
  }
  if (step.stream) stream_fence();
}

void affine_step(const AffineStep& step, int64_t begin, int64_t end) {
  using Chunk = void (*)(const AffineStep&, int64_t, int64_t);
  static constexpr Chunk chunks[2][2][2] = {
      {{affine_chunk<false, false, false>, affine_chunk<false, false, true>},
       {affine_chunk<false, true, false>, affine_chunk<false, true, true>}},
      {{affine_chunk<true, false, false>, affine_chunk<true, false, true>},
       {affine_chunk<true, true, false>, affine_chunk<true, true, true>}}};
  chunks[step.uncond != nullptr][step.limit > 0.0f][step.noise_scale != 0.0f](step, begin, end);
}

void affine_step_bwd(const AffineStepBackward& step, int64_t begin, int64_t end) {
  Block dout, z, prediction, uncond, dz, dprediction, duncond;
  const F32 z_weight = splat(step.z_weight), prediction_weight = splat(step.prediction_weight);
  const F32 uncond_weight = splat(step.uncond_weight);
  const F32 z_scale = splat(step.z_scale), x_scale = splat(step.x_scale), limit = splat(step.limit);
  const bool has_limit = step.limit > 0.0f, has_uncond = step.uncond != nullptr;
  for (int64_t i = begin; i < end; i += kBlock) {
    const int count = static_cast<int>(end - i < kBlock ? end - i : kBlock);
    const float* dout_block = read_block(step.dout, step.z_dtype, i, count, dout);
    const float *z_block = nullptr, *prediction_block = nullptr, *uncond_block = nullptr;
    if (has_limit) {
      z_block = read_block(step.z, step.z_dtype, i, count, z);
      prediction_block = read_block(step.prediction, step.prediction_dtype, i, count, prediction);
      if (has_uncond) uncond_block = read_block(step.uncond, step.prediction_dtype, i, count, uncond);
    }
    float* dz_block = step.dz ? begin_block(step.dz, step.z_dtype, i, count, dz) : nullptr;
    float* dprediction_block =
        step.dprediction ? begin_block(step.dprediction, step.prediction_dtype, i, count, dprediction)
                         : nullptr;
    float* duncond_block =
        step.duncond ? begin_block(step.duncond, step.prediction_dtype, i, count, duncond) : nullptr;
    for (int k = 0; k < count; k += kLanes) {
      const F32 g = load(dout_block + k);
      F32 dx = g;
      if (has_limit) {
        F32 x = fma(z_weight, load(z_block + k), prediction_weight * load(prediction_block + k));
        if (has_uncond) x = fma(uncond_weight, load(uncond_block + k), x);
        dx = keep_within(x, limit, x_scale * g);
      }
      if (dz_block) store(dz_block + k, fma(z_scale, g, z_weight * dx));
      if (dprediction_block) store(dprediction_block + k, prediction_weight * dx);
      if (duncond_block) store(duncond_block + k, uncond_weight * dx);
    }
    if (step.dz) write_block(step.dz, step.z_dtype, i, count, dz);
    if (step.dprediction) write_block(step.dprediction, step.prediction_dtype, i, count, dprediction);
    if (step.duncond) write_block(step.duncond, step.prediction_dtype, i, count, duncond);
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
