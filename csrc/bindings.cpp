// The module vdm_kernels._C: one line per launcher. It knows nothing of torch: tensors are addresses (0 =
// absent), element types and parameterizations are the codes of common/types.h, a CUDA stream is its address.
// The Python side checks everything before it calls; nothing is checked here.
#include "bindings.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <tuple>

#include "abs_quantile/abs_quantile.h"
#include "ancestral_step/ancestral_step.h"
#include "channel_statistics/channel_statistics.h"
#include "common/allocator.h"
#include "common/cpu_isa.h"
#include "common/fingerprint.h"
#include "common/parallel.h"
#include "ddim_step/ddim_step.h"
#include "group_norm_silu/group_norm_silu.h"
#include "group_norm_silu_conv/taps.h"
#include "group_norm_silu_conv/winograd.h"
#include "langevin_step/langevin_step.h"
#include "philox_normal/philox_normal.h"
#include "q_sample/q_sample.h"
#include "spatial_attention/spatial_attention.h"
#include "spatial_attention_block/spatial_attention_block.h"
#include "temporal_attention/temporal_attention.h"
#include "temporal_attention_block/temporal_attention_block.h"
#ifdef VDM_HAS_CUDA
#  include "temporal_attention/temporal_attention_cuda.h"
#endif

namespace py = pybind11;
using py::operator""_a;

namespace vdm {
namespace {

// The arguments of each op, in Python's order.

PhiloxNormalParams philox_normal(Address out, int dtype, int64_t batch, int64_t n, Address seed,
                                 Address draw) {
  return {pointer(out), DType(dtype), batch, n, pointer<int64_t>(seed), pointer<int64_t>(draw)};
}

QSampleParams q_sample(Address x, Address z, Address eps, int dtype, int64_t batch, int64_t n, Address logsnr,
                       Address seed, Address draw, bool variance_preserving) {
  return {pointer(x),
          pointer(z),
          pointer(eps),
          DType(dtype),
          batch,
          n,
          pointer<float>(logsnr),
          pointer<int64_t>(seed),
          pointer<int64_t>(draw),
          variance_preserving};
}

AncestralStepParams ancestral_step(Address z, Address prediction, Address uncond, Address out, int z_dtype,
                                   int prediction_dtype, int64_t batch, int64_t n, Address logsnr_t,
                                   Address logsnr_s, Address guidance_weight, Address threshold, Address seed,
                                   Address draw, int parameterization, double gamma, bool add_noise,
                                   bool variance_preserving) {
  return {{pointer(z), pointer(prediction), pointer(uncond), pointer(out), DType(z_dtype),
           DType(prediction_dtype), batch, n, pointer<float>(logsnr_t), pointer<float>(logsnr_s),
           pointer<float>(guidance_weight), pointer<float>(threshold), pointer<int64_t>(seed),
           pointer<int64_t>(draw), Parameterization(parameterization), variance_preserving},
          gamma,
          add_noise};
}

AncestralStepBackwardParams ancestral_step_bwd(Address dout, Address z, Address prediction, Address uncond,
                                               Address dz, Address dprediction, Address duncond, int z_dtype,
                                               int prediction_dtype, int64_t batch, int64_t n,
                                               Address logsnr_t, Address logsnr_s, Address guidance_weight,
                                               Address threshold, int parameterization,
                                               bool variance_preserving) {
  return {{pointer(dout), pointer(z), pointer(prediction), pointer(uncond), pointer(dz), pointer(dprediction),
           pointer(duncond), DType(z_dtype), DType(prediction_dtype), batch, n, pointer<float>(logsnr_t),
           pointer<float>(logsnr_s), pointer<float>(guidance_weight), pointer<float>(threshold),
           Parameterization(parameterization), variance_preserving}};
}

DdimStepParams ddim_step(Address z, Address prediction, Address uncond, Address out, int z_dtype,
                         int prediction_dtype, int64_t batch, int64_t n, Address logsnr_t, Address logsnr_s,
                         Address guidance_weight, Address threshold, Address seed, Address draw,
                         int parameterization, double eta, bool variance_preserving) {
  return {ancestral_step(z, prediction, uncond, out, z_dtype, prediction_dtype, batch, n, logsnr_t, logsnr_s,
                         guidance_weight, threshold, seed, draw, parameterization, 0.0, false,
                         variance_preserving)
              .step,
          eta};
}

DdimStepBackwardParams ddim_step_bwd(Address dout, Address z, Address prediction, Address uncond, Address dz,
                                     Address dprediction, Address duncond, int z_dtype, int prediction_dtype,
                                     int64_t batch, int64_t n, Address logsnr_t, Address logsnr_s,
                                     Address guidance_weight, Address threshold, int parameterization,
                                     double eta, bool variance_preserving) {
  return {ancestral_step_bwd(dout, z, prediction, uncond, dz, dprediction, duncond, z_dtype, prediction_dtype,
                             batch, n, logsnr_t, logsnr_s, guidance_weight, threshold, parameterization,
                             variance_preserving)
              .step,
          eta};
}

LangevinStepParams langevin_step(Address z, Address prediction, Address uncond, Address out, int z_dtype,
                                 int prediction_dtype, int64_t batch, int64_t n, Address logsnr, Address,
                                 Address guidance_weight, Address threshold, Address seed, Address draw,
                                 int parameterization, double delta, bool variance_preserving) {
  return {ancestral_step(z, prediction, uncond, out, z_dtype, prediction_dtype, batch, n, logsnr, logsnr,
                         guidance_weight, threshold, seed, draw, parameterization, 0.0, false,
                         variance_preserving)
              .step,
          delta};
}

LangevinStepBackwardParams langevin_step_bwd(Address dout, Address z, Address prediction, Address uncond,
                                             Address dz, Address dprediction, Address duncond, int z_dtype,
                                             int prediction_dtype, int64_t batch, int64_t n, Address logsnr,
                                             Address, Address guidance_weight, Address threshold,
                                             int parameterization, double delta, bool variance_preserving) {
  return {ancestral_step_bwd(dout, z, prediction, uncond, dz, dprediction, duncond, z_dtype, prediction_dtype,
                             batch, n, logsnr, logsnr, guidance_weight, threshold, parameterization,
                             variance_preserving)
              .step,
          delta};
}

AbsQuantileParams abs_quantile(Address x, Address out, int dtype, int64_t batch, int64_t n, double q) {
  return {pointer(x), pointer<float>(out), DType(dtype), batch, n, q};
}

// qkv, bias, segment_ids, dtype, batch, frames, pixels, heads, width, bias_per_sample
using TemporalAttentionArgs =
    std::tuple<Address, Address, Address, int, int64_t, int64_t, int64_t, int64_t, int64_t, bool>;

TemporalAttentionInput temporal_attention_input(const TemporalAttentionArgs& args) {
  const auto [qkv, bias, segment_ids, dtype, batch, frames, pixels, heads, width, per_sample] = args;
  return {pointer(qkv),
          pointer<float>(bias),
          pointer<int64_t>(segment_ids),
          DType(dtype),
          batch,
          frames,
          pixels,
          heads,
          width,
          per_sample};
}

TemporalAttentionParams temporal_attention(const TemporalAttentionArgs& input, Address out) {
  return {temporal_attention_input(input), pointer(out)};
}

TemporalAttentionBackwardParams temporal_attention_bwd(Address dout, const TemporalAttentionArgs& input,
                                                       Address dqkv, Address dbias) {
  return {temporal_attention_input(input), pointer(dout), pointer(dqkv), pointer<float>(dbias)};
}

// batch, frames, pixels, heads, width
using TemporalAttentionBlockSizes = std::array<int64_t, 5>;

TemporalAttentionBlockParams temporal_attention_block(Address x, Address out, int dtype,
                                                      const TemporalAttentionBlockSizes& sizes,
                                                      Address norm_weight, Address norm_bias,
                                                      Address qkv_weight, Address out_weight,
                                                      Address out_bias, Address bias, bool bias_per_sample,
                                                      Address segment_ids, float eps) {
  const auto [batch, frames, pixels, heads, width] = sizes;
  return {pointer(x),
          pointer(out),
          DType(dtype),
          batch,
          frames,
          pixels,
          heads,
          width,
          pointer<float>(norm_weight),
          pointer<float>(norm_bias),
          pointer<float>(qkv_weight),
          pointer<float>(out_weight),
          pointer<float>(out_bias),
          pointer<float>(bias),
          bias_per_sample,
          pointer<int64_t>(segment_ids),
          eps};
}

// images, height, width, heads, channels
using SpatialAttentionSizes = std::array<int64_t, 5>;

SpatialAttentionInput spatial_attention_input(Address qkv, Address bias_table, int dtype,
                                              const SpatialAttentionSizes& sizes) {
  const auto [images, height, width, heads, channels] = sizes;
  return {pointer(qkv), pointer<float>(bias_table), DType(dtype),    images, height, width, heads,
          channels,     3 * heads * channels,       heads * channels};
}

SpatialAttentionParams spatial_attention(Address qkv, Address bias_table, Address out, int dtype,
                                         const SpatialAttentionSizes& sizes) {
  return {spatial_attention_input(qkv, bias_table, dtype, sizes), pointer(out)};
}

SpatialAttentionBackwardParams spatial_attention_bwd(Address dout, Address qkv, Address bias_table,
                                                     Address dqkv, Address dbias_table, int dtype,
                                                     const SpatialAttentionSizes& sizes) {
  return {spatial_attention_input(qkv, bias_table, dtype, sizes), pointer(dout), pointer(dqkv),
          pointer<float>(dbias_table)};
}

SpatialAttentionBlockParams spatial_attention_block(Address x, Address out, int dtype,
                                                    const SpatialAttentionSizes& sizes, Address norm_weight,
                                                    Address norm_bias, Address qkv_weight, Address out_weight,
                                                    Address out_bias, Address bias_table, float eps) {
  const auto [images, height, width, heads, channels] = sizes;
  return {pointer(x),
          pointer(out),
          DType(dtype),
          images,
          height,
          width,
          heads,
          channels,
          pointer<float>(norm_weight),
          pointer<float>(norm_bias),
          pointer<float>(qkv_weight),
          pointer<float>(out_weight),
          pointer<float>(out_bias),
          pointer<float>(bias_table),
          eps};
}

ChannelStatisticsParams channel_statistics(Address x, Address statistics, int dtype, int64_t images,
                                           int64_t pixels, int64_t channels) {
  return {pointer(x), pointer<Statistic>(statistics), DType(dtype), images, pixels, channels};
}

GroupNormSiluParams group_norm_silu(Address x, Address a, int dtype, int64_t pixels, Address statistics,
                                    Address weight, Address bias, Address scale, Address shift, int64_t batch,
                                    int64_t frames, int64_t channels, int64_t groups,
                                    int64_t modulation_frames, bool video, double eps) {
  return {pointer(x), pointer(a), DType(dtype), pixels,
          group_norm(statistics, weight, bias, scale, shift, batch, frames, channels, groups,
                     modulation_frames, video, eps)};
}

// da, x, x2, dx, dx2, dweight, dbias, dscale, dshift, dtypes of da and x, pixels, channels of x, norm
using GroupNormSiluBackwardArgs = std::tuple<Address, Address, Address, Address, Address, Address, Address,
                                             Address, Address, int, int, int64_t, int64_t, GroupNormArgs>;

GroupNormSiluBackwardParams group_norm_silu_bwd(const GroupNormSiluBackwardArgs& args) {
  const auto& [da, x, x2, dx, dx2, dweight, dbias, dscale, dshift, da_dtype, dtype, pixels, x_channels,
               norm] = args;
  return {pointer(da),
          pointer(x),
          pointer(x2),
          pointer(dx),
          pointer(dx2),
          pointer<float>(dweight),
          pointer<float>(dbias),
          pointer<float>(dscale),
          pointer<float>(dshift),
          DType(da_dtype),
          DType(dtype),
          pixels,
          x_channels,
          conv_norm(norm)};
}

// The arguments of the algorithms of group_norm_silu_conv come in tuples.

// x, x2, dtype, images, height, width, channels of x, channels of both
using ConvInputArgs = std::tuple<Address, Address, int, int64_t, int64_t, int64_t, int64_t, int64_t>;

ConvInput conv_input(const ConvInputArgs& args) {
  const auto [x, x2, dtype, images, height, width, channels1, channels] = args;
  return {pointer(x), pointer(x2), DType(dtype), images,  height, width,
          channels1,  channels,    nullptr,      nullptr, nullptr};
}

// y, residual, bias, dtype, images, height, width, channels
using ConvOutputArgs = std::tuple<Address, Address, Address, int, int64_t, int64_t, int64_t, int64_t>;

ConvOutput conv_output(const ConvOutputArgs& args) {
  const auto [y, residual, bias, dtype, images, height, width, channels] = args;
  return {pointer(y), pointer(residual), pointer<float>(bias), DType(dtype), images, height, width, channels,
          false};
}

// out_channels, in_channels, size, stride, upsample, transposed
using TapsKernelArgs = std::tuple<int64_t, int64_t, int, int, bool, bool>;

TapsKernel taps_kernel(const TapsKernelArgs& args) {
  const auto [out_channels, in_channels, size, stride, upsample, transposed] = args;
  return {out_channels, in_channels, size, stride, upsample, transposed};
}

TapsPackParams taps_pack(const TapsKernelArgs& kernel, Address weight, const std::array<int64_t, 4>& strides,
                         Address packed) {
  return {taps_kernel(kernel), pointer<float>(weight), strides, pointer<float>(packed)};
}

TapsConvParams taps_conv(const TapsKernelArgs& kernel, const ConvInputArgs& input, const GroupNormArgs& norm,
                         const ConvOutputArgs& output, Address packed, Address statistics) {
  return {taps_kernel(kernel), conv_input(input),      conv_norm(norm),
          conv_output(output), pointer<float>(packed), pointer<Statistic>(statistics)};
}

TapsWeightGradientParams taps_weight_gradient(const TapsKernelArgs& kernel, const ConvInputArgs& input,
                                              const GroupNormArgs& norm, const ConvInputArgs& dy,
                                              Address dweight, const std::array<int64_t, 4>& strides,
                                              Address dbias) {
  return {taps_kernel(kernel),     conv_input(input), conv_norm(norm),      conv_input(dy),
          pointer<float>(dweight), strides,           pointer<float>(dbias)};
}

// out_channels, in_channels, tile, upsample, transposed
using WinogradKernelArgs = std::tuple<int64_t, int64_t, int, bool, bool>;

WinogradKernel winograd_kernel(const WinogradKernelArgs& args) {
  return std::apply([](auto... arg) { return WinogradKernel{arg...}; }, args);
}

// kernel, weight, its dtype and strides
using WinogradWeightArgs = std::tuple<WinogradKernelArgs, Address, int, std::array<int64_t, 4>>;

WinogradWeight winograd_weight(const WinogradWeightArgs& args) {
  const auto& [kernel, data, dtype, strides] = args;
  return {winograd_kernel(kernel), pointer(data), DType(dtype), strides};
}

WinogradWeightsParams winograd_weights(const WinogradWeightArgs& weight, Address transformed) {
  return {winograd_weight(weight), pointer<float>(transformed)};
}

WinogradConvParams winograd_conv(const WinogradWeightArgs& weight, const ConvInputArgs& input,
                                 const GroupNormArgs& norm, const ConvOutputArgs& output, Address transformed,
                                 Address statistics, bool checks_weight) {
  return {winograd_weight(weight),
          conv_input(input),
          conv_norm(norm),
          conv_output(output),
          pointer<float>(transformed),
          pointer<Statistic>(statistics),
          {},
          checks_weight};
}

WinogradInputGradientParams winograd_input_gradient(const WinogradWeightArgs& weight, const ConvInputArgs& dy,
                                                    Address transformed,
                                                    const GroupNormSiluBackwardArgs& norm) {
  return {winograd_weight(weight), conv_input(dy), pointer<float>(transformed), group_norm_silu_bwd(norm)};
}

WinogradWeightGradientParams winograd_weight_gradient(const WinogradKernelArgs& kernel,
                                                      const ConvInputArgs& input, const GroupNormArgs& norm,
                                                      const ConvInputArgs& dy, Address dweight, int dtype,
                                                      const std::array<int64_t, 4>& strides, Address dbias) {
  return {winograd_kernel(kernel), conv_input(input), conv_norm(norm), conv_input(dy),
          pointer(dweight),        DType(dtype),      strides,         pointer<float>(dbias)};
}

// Defines a launcher: its arguments are those of `params`, without the interpreter's lock.
template <typename Result, typename Params, typename... Args>
void define(py::module_& m, const char* name, Result (*launch)(const Params&), Params (*params)(Args...)) {
  m.def(
      name, [=](Args... args) { return launch(params(args...)); }, py::call_guard<py::gil_scoped_release>());
}

#ifdef VDM_HAS_CUDA
// As above; the last argument is the stream.
template <typename Params, typename... Args>
void define(py::module_& m, const char* name, void (*launch)(const Params&, void*),
            Params (*params)(Args...)) {
  m.def(
      name, [=](Args... args, Address stream) { launch(params(args...), pointer(stream)); },
      py::call_guard<py::gil_scoped_release>());
}

TemporalAttentionCudaParams temporal_attention_on_cuda(const TemporalAttentionArgs& input, int64_t groups,
                                                       int64_t splits, Address out) {
  return {temporal_attention_input(input), groups, splits, pointer(out)};
}

TemporalAttentionBackwardCudaParams temporal_attention_bwd_on_cuda(Address dout,
                                                                   const TemporalAttentionArgs& input,
                                                                   int64_t groups, int64_t splits,
                                                                   Address dqkv, Address partial) {
  return {temporal_attention_input(input), groups, splits, pointer(dout), pointer(dqkv),
          pointer<float>(partial)};
}

void abs_quantile_with_workspace(Address x, Address out, int dtype, int64_t batch, int64_t n, double q,
                                 Address workspace, int64_t workspace_bytes, Address stream) {
  abs_quantile_cuda(abs_quantile(x, out, dtype, batch, n, q), pointer(workspace), workspace_bytes,
                    pointer(stream));
}
#endif

PYBIND11_MODULE(_C, m) {
  define(m, "philox_normal_cpu", philox_normal_cpu, philox_normal);
  define(m, "q_sample_cpu", q_sample_cpu, q_sample);
  define(m, "ancestral_step_cpu", ancestral_step_cpu, ancestral_step);
  define(m, "ancestral_step_bwd_cpu", ancestral_step_bwd_cpu, ancestral_step_bwd);
  define(m, "ddim_step_cpu", ddim_step_cpu, ddim_step);
  define(m, "ddim_step_bwd_cpu", ddim_step_bwd_cpu, ddim_step_bwd);
  define(m, "langevin_step_cpu", langevin_step_cpu, langevin_step);
  define(m, "langevin_step_bwd_cpu", langevin_step_bwd_cpu, langevin_step_bwd);
  define(m, "abs_quantile_cpu", abs_quantile_cpu, abs_quantile);
  define(m, "temporal_attention_cpu", temporal_attention_cpu, temporal_attention);
  define(m, "temporal_attention_bwd_cpu", temporal_attention_bwd_cpu, temporal_attention_bwd);
  define(m, "temporal_attention_block_cpu", temporal_attention_block_cpu, temporal_attention_block);
  define(m, "spatial_attention_cpu", spatial_attention_cpu, spatial_attention);
  define(m, "spatial_attention_bwd_cpu", spatial_attention_bwd_cpu, spatial_attention_bwd);
  define(m, "spatial_attention_block_cpu", spatial_attention_block_cpu, spatial_attention_block);
  define(m, "channel_statistics_cpu", channel_statistics_cpu, channel_statistics);
  define(m, "taps_pack_cpu", taps_pack_cpu, taps_pack);
  define(m, "taps_conv_cpu", taps_conv_cpu, taps_conv);
  define(m, "taps_weight_gradient_cpu", taps_weight_gradient_cpu, taps_weight_gradient);
  m.def("taps_packed_size",
        [](const TapsKernelArgs& kernel) { return taps_packed_size(taps_kernel(kernel)); });
  define(m, "winograd_weights_cpu", winograd_weights_cpu, winograd_weights);
  define(m, "winograd_conv_cpu", winograd_conv_cpu, winograd_conv);
  define(m, "winograd_input_gradient_cpu", winograd_input_gradient_cpu, winograd_input_gradient);
  define(m, "winograd_weight_gradient_cpu", winograd_weight_gradient_cpu, winograd_weight_gradient);
  m.def("winograd_weights_size",
        [](const WinogradKernelArgs& kernel) { return winograd_weights_size(winograd_kernel(kernel)); });
  m.def("winograd_makes_weights",
        [](const WinogradKernelArgs& kernel) { return winograd_makes_weights(winograd_kernel(kernel)); });
  m.def("winograd_makes_statistics", [](const WinogradKernelArgs& kernel, int64_t images) {
    return winograd_makes_statistics(winograd_kernel(kernel), images);
  });
  define(m, "group_norm_silu_cpu", group_norm_silu_cpu, group_norm_silu);
  define(m, "group_norm_silu_bwd_cpu", group_norm_silu_bwd_cpu, group_norm_silu_bwd);

#ifdef VDM_HAS_CUDA
  define(m, "philox_normal_cuda", philox_normal_cuda, philox_normal);
  define(m, "q_sample_cuda", q_sample_cuda, q_sample);
  define(m, "ancestral_step_cuda", ancestral_step_cuda, ancestral_step);
  define(m, "ancestral_step_bwd_cuda", ancestral_step_bwd_cuda, ancestral_step_bwd);
  define(m, "ddim_step_cuda", ddim_step_cuda, ddim_step);
  define(m, "ddim_step_bwd_cuda", ddim_step_bwd_cuda, ddim_step_bwd);
  define(m, "langevin_step_cuda", langevin_step_cuda, langevin_step);
  define(m, "langevin_step_bwd_cuda", langevin_step_bwd_cuda, langevin_step_bwd);
  m.def("abs_quantile_cuda", abs_quantile_with_workspace, py::call_guard<py::gil_scoped_release>());
  m.def("abs_quantile_cuda_workspace_bytes", abs_quantile_cuda_workspace_bytes, "batch"_a);
  define(m, "temporal_attention_cuda", temporal_attention_cuda, temporal_attention_on_cuda);
  define(m, "temporal_attention_bwd_cuda", temporal_attention_bwd_cuda, temporal_attention_bwd_on_cuda);
  define_norm_cuda(m);
  m.attr("has_cuda") = true;
#else
  m.attr("has_cuda") = false;
#endif

  m.def("cpu_isa", [] { return cpu_isa_name(cpu_isa()); }, "The instruction set the CPU kernels use.");
  m.def("set_cpu_isa", set_cpu_isa, "name"_a,
        "Use baseline, avx2 or avx512; ValueError where the CPU or the build lacks it.");
  m.def("num_threads", max_threads,
        "How many threads the CPU kernels use: OpenMP's setting, shared with torch.");
  m.def(
      "fingerprint", [](Address data, int64_t bytes) { return fingerprint(pointer(data), bytes); },
      py::call_guard<py::gil_scoped_release>(), "data"_a, "bytes"_a,
      "64 bits that change when the memory does.");
  m.def("set_allocator_policy", set_allocator_policy,
        "Keep freed memory in the process (glibc); False where that is not possible.");
  m.attr("build_info") = VDM_BUILD_INFO;
}

}  // namespace
}  // namespace vdm
