// The forward and backward kernels of the sampler steps; each op's <op>_cuda.cu gives
// the rule, a function from log SNR to coefficients.
//
// One group of four elements (one Philox counter) per thread; each input is read once and the output is
// written once. The coefficients are computed in double from device memory by one thread of each thread
// block, while the others load and make their first noise, so that a captured CUDA graph replays a step for
// new times, seeds and draws.
#pragma once

#include "common/coefficients.h"
#include "common/group_access.cuh"
#include "common/launch.cuh"
#include "common/philox.h"
#include "common/step.h"

namespace vdm {

constexpr int kStepBlocksPerSm = 12;
constexpr int kStepBackwardBlocksPerSm = 10;

//     xhat = z z + prediction prediction + uncond uncond
//     out  = xhat + noise_scale noise                                                  without a threshold
//     out  = z_scale z + x_scale clip(xhat, -limit, limit) + noise_scale noise         with one
//
// Without a threshold z_scale and x_scale are folded into the first line, in double.
struct alignas(16) StepWeights {
  float z, prediction, uncond, noise_scale;
  float z_scale, x_scale, limit;
};

template <typename Params, typename Rule>
__device__ StepWeights step_weights(const Params& params, const Rule& rule, int64_t sample) {
  const StepCoefficients<double> c = rule.coefficients(params.logsnr_t[sample], params.logsnr_s[sample],
                                                       params.parameterization, params.variance_preserving);
  const double w = params.uncond ? static_cast<double>(params.guidance_weight[sample]) : 0.0;
  const double prediction = c.x_from_prediction * (1.0 + w), uncond = -c.x_from_prediction * w;
  StepWeights weights;
  weights.noise_scale = static_cast<float>(c.noise_scale);
  if (params.threshold) {
    float limit = params.threshold[sample];
    if (limit < 1.0f) limit = 1.0f;  // unlike fmaxf, keeps NaN
    weights.z = static_cast<float>(c.x_from_z);
    weights.prediction = static_cast<float>(prediction);
    weights.uncond = static_cast<float>(uncond);
    weights.z_scale = static_cast<float>(c.z_scale);
    weights.x_scale = static_cast<float>(c.x_scale / limit);
    weights.limit = limit;
  } else {
    weights.z = static_cast<float>(c.z_scale + c.x_scale * c.x_from_z);
    weights.prediction = static_cast<float>(c.x_scale * prediction);
    weights.uncond = static_cast<float>(c.x_scale * uncond);
    weights.z_scale = weights.x_scale = weights.limit = 0.0f;
  }
  return weights;
}

template <typename Rule, typename Z, typename P, bool kVector>
__global__ void __launch_bounds__(kGroupsPerBlock, kStepBlocksPerSm)
    step_kernel(StepParams params, Rule rule, GroupGrid grid) {
  __shared__ StepWeights shared_weights;
  const int64_t sample = blockIdx.x / grid.splits;
  const int64_t first = blockIdx.x % grid.splits;
  if (threadIdx.x == 0) shared_weights = step_weights(params, rule, sample);
  const bool noisy = rule.noisy();
  const int64_t seed = noisy ? params.seed[sample] : 0, draw = noisy ? *params.draw : 0;
  const int64_t begin = sample * params.n;
  const Z* const z = static_cast<const Z*>(params.z) + begin;
  const P* const prediction = static_cast<const P*>(params.prediction) + begin;
  const P* const uncond = static_cast<const P*>(params.uncond) + begin;
  Z* const out = static_cast<Z*>(params.out) + begin;
  for (int64_t block = first; block < grid.blocks; block += grid.splits) {
    const int64_t group = block * kGroupsPerBlock + threadIdx.x;
    const int count = group_count(params.n, group);
    float zs[4], predictions[4], unconds[4] = {}, normals[4] = {};
    load_group<kVector>(z, group, count, zs);
    load_group<kVector>(prediction, group, count, predictions);
    if (params.uncond) load_group<kVector>(uncond, group, count, unconds);
    if (noisy) normals_from_bits(philox_group(seed, draw, group), normals);
    if (block == first) __syncthreads();
    const StepWeights weights = shared_weights;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float x = fmaf(weights.z, zs[j], weights.prediction * predictions[j]);
      if (params.uncond) x = fmaf(weights.uncond, unconds[j], x);
      if (params.threshold) {
        x = x > weights.limit ? weights.limit : x < -weights.limit ? -weights.limit : x;  // keeps NaN
        x = fmaf(weights.z_scale, zs[j], weights.x_scale * x);
      }
      zs[j] = noisy ? fmaf(weights.noise_scale, normals[j], x) : x;
    }
    store_group<kVector>(out, group, count, zs);
  }
}

// dxhat = x_scale dout where |xhat| <= limit, dz = z_scale dout + z dxhat, dprediction = prediction dxhat,
// duncond = uncond dxhat; without a threshold dxhat = dout and z_scale = 0.
template <typename Rule, typename Z, typename P, bool kVector>
__global__ void __launch_bounds__(kGroupsPerBlock, kStepBackwardBlocksPerSm)
    step_bwd_kernel(StepBackwardParams params, Rule rule, GroupGrid grid) {
  __shared__ StepWeights shared_weights;
  const int64_t sample = blockIdx.x / grid.splits;
  const int64_t first = blockIdx.x % grid.splits;
  if (threadIdx.x == 0) shared_weights = step_weights(params, rule, sample);
  const int64_t begin = sample * params.n;
  for (int64_t block = first; block < grid.blocks; block += grid.splits) {
    const int64_t group = block * kGroupsPerBlock + threadIdx.x;
    const int count = group_count(params.n, group);
    float dout[4], zs[4] = {}, predictions[4] = {}, unconds[4] = {}, gradient[4];
    load_group<kVector>(static_cast<const Z*>(params.dout) + begin, group, count, dout);
    if (params.threshold) {
      load_group<kVector>(static_cast<const Z*>(params.z) + begin, group, count, zs);
      load_group<kVector>(static_cast<const P*>(params.prediction) + begin, group, count, predictions);
      if (params.uncond)
        load_group<kVector>(static_cast<const P*>(params.uncond) + begin, group, count, unconds);
    }
    if (block == first) __syncthreads();
    const StepWeights weights = shared_weights;
    float dx[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      dx[j] = dout[j];
      if (params.threshold) {
        float x = fmaf(weights.z, zs[j], weights.prediction * predictions[j]);
        if (params.uncond) x = fmaf(weights.uncond, unconds[j], x);
        dx[j] = fabsf(x) <= weights.limit ? weights.x_scale * dout[j] : 0.0f;
      }
    }
    if (params.dz) {
#pragma unroll
      for (int j = 0; j < 4; ++j) gradient[j] = fmaf(weights.z_scale, dout[j], weights.z * dx[j]);
      store_group<kVector>(static_cast<Z*>(params.dz) + begin, group, count, gradient);
    }
    if (params.dprediction) {
#pragma unroll
      for (int j = 0; j < 4; ++j) gradient[j] = weights.prediction * dx[j];
      store_group<kVector>(static_cast<P*>(params.dprediction) + begin, group, count, gradient);
    }
    if (params.duncond) {
#pragma unroll
      for (int j = 0; j < 4; ++j) gradient[j] = weights.uncond * dx[j];
      store_group<kVector>(static_cast<P*>(params.duncond) + begin, group, count, gradient);
    }
  }
}

// Calls body(Z{}, P{}): a prediction has z's type or a narrower one.
template <typename Body>
void with_step_dtypes(DType z, DType prediction, const char* where, const Body& body) {
  with_dtype(z, [&](auto z_element) {
    using Z = decltype(z_element);
    if (prediction == z) {
      body(Z{}, Z{});
    } else if constexpr (sizeof(Z) == 4) {
      if (prediction == DType::kBFloat16) return body(Z{}, __nv_bfloat16{});
      body(Z{}, __half{});
    } else {
      throw std::invalid_argument(std::string(where) + ": prediction must have z's dtype or a narrower one");
    }
  });
}

template <typename Rule>
void step_cuda(const StepParams& params, const Rule& rule, void* stream, const char* where) {
  const GroupGrid grid = device_group_grid(params.batch, params.n, kStepBlocksPerSm, where);
  if (grid.thread_blocks == 0) return;
  const bool vector = params.n % 4 == 0 && group_aligned(params.z, params.z_dtype) &&
                      group_aligned(params.prediction, params.prediction_dtype) &&
                      group_aligned(params.uncond, params.prediction_dtype) &&
                      group_aligned(params.out, params.z_dtype);
  with_step_dtypes(params.z_dtype, params.prediction_dtype, where, [&](auto z, auto prediction) {
    using Z = decltype(z);
    using P = decltype(prediction);
    const auto kernel = vector ? step_kernel<Rule, Z, P, true> : step_kernel<Rule, Z, P, false>;
    kernel<<<static_cast<unsigned>(grid.thread_blocks), kGroupsPerBlock, 0,
             static_cast<cudaStream_t>(stream)>>>(params, rule, grid);
  });
  check_cuda(cudaGetLastError(), where);
}

template <typename Rule>
void step_bwd_cuda(const StepBackwardParams& params, const Rule& rule, void* stream, const char* where) {
  const GroupGrid grid = device_group_grid(params.batch, params.n, kStepBackwardBlocksPerSm, where);
  if (grid.thread_blocks == 0) return;
  bool vector = params.n % 4 == 0;
  for (const void* tensor : {params.dout, params.z, static_cast<const void*>(params.dz)})
    vector = vector && group_aligned(tensor, params.z_dtype);
  for (const void* tensor : {params.prediction, params.uncond, static_cast<const void*>(params.dprediction),
                             static_cast<const void*>(params.duncond)})
    vector = vector && group_aligned(tensor, params.prediction_dtype);
  with_step_dtypes(params.z_dtype, params.prediction_dtype, where, [&](auto z, auto prediction) {
    using Z = decltype(z);
    using P = decltype(prediction);
    const auto kernel = vector ? step_bwd_kernel<Rule, Z, P, true> : step_bwd_kernel<Rule, Z, P, false>;
    kernel<<<static_cast<unsigned>(grid.thread_blocks), kGroupsPerBlock, 0,
             static_cast<cudaStream_t>(stream)>>>(params, rule, grid);
  });
  check_cuda(cudaGetLastError(), where);
}

}  // namespace vdm
