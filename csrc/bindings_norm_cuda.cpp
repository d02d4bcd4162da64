// The CUDA launchers of channel_statistics, group_norm_silu and group_norm_silu_conv. They take a
// workspace and then the stream; <launcher>_workspace, of the same arguments but the stream, gives its bytes.
#ifdef VDM_HAS_CUDA
#  include <pybind11/stl.h>

#  include <array>
#  include <cstdint>
#  include <string>

#  include "bindings.h"
#  include "channel_statistics/channel_statistics_cuda.h"
#  include "group_norm_silu/group_norm_silu_cuda.h"
#  include "group_norm_silu_conv/group_norm_silu_conv_cuda.h"

namespace py = pybind11;

namespace vdm {
namespace {

ChannelStatisticsCudaParams channel_statistics(Address x, Address statistics, int dtype, int64_t images,
                                               int64_t pixels, int64_t channels, Address workspace) {
  return {pointer(x),        pointer<Statistic>(statistics), DType(dtype), images, pixels, channels, channels,
          pointer(workspace)};
}

GroupNormSiluCudaParams group_norm_silu(Address x, Address x2, Address y, int dtype, int64_t pixels,
                                        int64_t x_channels, const GroupNormArgs& norm, Address workspace) {
  return {pointer(x), pointer(x2), pointer(y),      DType(dtype),
          pixels,     x_channels,  conv_norm(norm), pointer(workspace)};
}

GroupNormSiluBackwardCudaParams group_norm_silu_bwd(Address dout, Address x, Address x2, Address dx,
                                                    Address dx2, Address dweight, Address dbias,
                                                    Address dscale, Address dshift, int dtype, int64_t pixels,
                                                    int64_t x_channels, const GroupNormArgs& norm,
                                                    Address workspace) {
  return {pointer(dout),
          pointer(x),
          pointer(x2),
          pointer(dx),
          pointer(dx2),
          pointer<float>(dweight),
          pointer<float>(dbias),
          pointer<float>(dscale),
          pointer<float>(dshift),
          DType(dtype),
          pixels,
          x_channels,
          conv_norm(norm),
          pointer(workspace)};
}

FusedConvCudaParams fused_conv(Address x, Address x2, Address weight, Address bias, Address residual,
                               Address y, Address statistics, int dtype, int64_t height, int64_t width,
                               int64_t x_channels, int64_t out_channels,
                               const std::array<int64_t, 4>& strides, const GroupNormArgs& norm,
                               Address workspace) {
  return {pointer(x),
          pointer(x2),
          pointer(weight),
          pointer(bias),
          pointer(residual),
          pointer(y),
          pointer<Statistic>(statistics),
          DType(dtype),
          height,
          width,
          x_channels,
          out_channels,
          {strides[0], strides[1], strides[2], strides[3]},
          conv_norm(norm),
          pointer(workspace)};
}

template <typename Params, typename... Args>
void define(py::module_& m, const std::string& name, void (*launch)(const Params&, void*),
            int64_t (*workspace)(const Params&), Params (*params)(Args...)) {
  m.def(
      name.c_str(), [=](Args... args, Address stream) { launch(params(args...), pointer(stream)); },
      py::call_guard<py::gil_scoped_release>());
  m.def((name + "_workspace").c_str(), [=](Args... args) { return workspace(params(args...)); });
}

}  // namespace

void define_norm_cuda(py::module_& m) {
  define(m, "channel_statistics_cuda", channel_statistics_cuda, channel_statistics_cuda_workspace,
         channel_statistics);
  define(m, "group_norm_silu_cuda", group_norm_silu_cuda, group_norm_silu_cuda_workspace, group_norm_silu);
  define(m, "group_norm_silu_bwd_cuda", group_norm_silu_bwd_cuda, group_norm_silu_bwd_cuda_workspace,
         group_norm_silu_bwd);
  define(m, "fused_conv_cuda", fused_conv_cuda, fused_conv_cuda_workspace, fused_conv);
}

}  // namespace vdm
#endif
