// group_norm_silu_conv on CUDA, where everything is fused into the convolution: y = conv3x3(silu(fold(x,
// x2))) + bias + residual, and the partial moments of y for the norm that follows. 16-bit types on tensor
// cores, float32 accumulators.
//
// A thread block makes 16 x 16 pixels of 64 output channels. For each 64 input channels it loads the 18 x 18
// pixels around them, applies norm and SiLU once, puts zeros where the image ends, and keeps the result in
// shared memory (46 KiB; a pixel's row is padded by 16 bytes, so that eight neighbours lie in different
// banks). A tap is then a shifted view of it: an implicit matrix product of 256 pixels x 16 channels by 16 x
// 64 per tap and 16 channels, of which each of the four warps has four image rows, in 128 accumulators a
// thread. The weights come in fragment order, 16 bytes a lane, from the L1 and L2 caches straight into
// registers, one step ahead: they need no shared memory and no barrier. The results go through shared memory
// once more, so that bias, residual and output are accessed 16 bytes at a time.
//
// Traffic: x is read 1.27 times (mostly from L2) for each 64 output channels, y is written once, residual
// read once. Two thread blocks fit on a multiprocessor (registers): one loads while the other multiplies.
#include "common/activation.cuh"
#include "common/async_copy.cuh"
#include "common/partials.cuh"
#include "common/tensor_core.cuh"
#include "group_norm_silu/group_norm_silu_cuda.h"
#include "group_norm_silu_conv/group_norm_silu_conv_cuda.h"

namespace vdm {
namespace {

constexpr int kTile = 16;         // pixels of a tile along each axis: an image row of it is a fragment's rows
constexpr int kHalo = kTile + 2;  // with those that the taps reach
constexpr int kHaloPixels = kHalo * kHalo;
constexpr int kChunk = 64;  // input channels at a time
constexpr int kOut = 64;    // output channels of a thread block
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTaps = 9;
constexpr int kPack = 8;                       // 16-bit elements of an access
constexpr int kLanes = kChunk / kPack;         // threads along the channels where elements are moved
constexpr int kPixelStride = kChunk + kPack;   // elements
constexpr int kFragmentRows = kTile / kWarps;  // image rows, each one fragment, of a warp
constexpr int kFragmentColumns = kOut / 8;
constexpr int kStep = 16 * kOut;  // weights of one tap and 16 channels
static_assert(kChunk == kOut, "the same threads move the input and the output");

// Where the results are put for the output: half of a warp's pixels at a time. The stride, 8 words more than
// a multiple of the 32 banks, separates the four rows that half a warp writes.
constexpr int kStagedPixels = kTile * kFragmentRows / 2;
constexpr int kStagedStride = kOut + 8;

union Shared {
  uint4 halo[kHaloPixels * kPixelStride / kPack];
  struct {
    float staged[kWarps][kStagedPixels * kStagedStride];
    Moments moments[kWarps][kOut];
  } out;
};
static_assert(sizeof(Shared) <= 48 << 10);

struct ConvWorkspace {
  void* weight;     // arranged
  float* folded;    // (3, images, channels)
  float2* moments;  // (images, tiles, out_channels), or null
  int64_t bytes;
};

struct Tile {
  int64_t image;
  int index, y, x;    // of the tile, and of its first pixel
  int first_channel;  // of the output
};

// Loads channels chunk, chunk + 1, ... of the tile's surroundings, and applies norm and SiLU to them. A
// thread keeps its channels. All of its loads are in flight at once; it alone reads them back, which takes no
// barrier.
template <typename T>
__device__ void load_halo(const FusedConvCudaParams& params, const float* folded, const Tile& tile, int chunk,
                          T* halo) {
  constexpr int kStride = kThreads / kLanes;  // pixels
  const int height = static_cast<int>(params.height), width = static_cast<int>(params.width);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, row = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t total = params.norm.channels, channel = chunk + lane * kPack;
  const bool second = channel >= params.x_channels, exists = channel < total;
  const int64_t stride = second ? total - params.x_channels : params.x_channels;
  const T* const image =
      (second ? static_cast<const T*>(params.x2) - params.x_channels : static_cast<const T*>(params.x)) +
      tile.image * params.height * params.width * stride + channel;
  // Whether the image has this pixel of the surroundings, (y, x) of the image.
  const auto inside = [&](int pixel, int& y, int& x) {
    y = tile.y - 1 + pixel / kHalo;
    x = tile.x - 1 + pixel % kHalo;
    return exists && y >= 0 && y < height && x >= 0 && x < width;
  };
  Pack<T, kPack>* const own = reinterpret_cast<Pack<T, kPack>*>(halo) + lane;
  int y, x;
#pragma unroll 3
  for (int pixel = row; pixel < kHaloPixels; pixel += kStride)
    if (inside(pixel, y, x))
      copy_pack_async(own + pixel * (kPixelStride / kPack), image + (int64_t{y} * width + x) * stride);
  const Fold<kPack> fold(folded, params.norm.images(), total, tile.image * total + (exists ? channel : 0));
  copy_async_wait();
#pragma unroll 3
  for (int pixel = row; pixel < kHaloPixels; pixel += kStride) {
    Pack<T, kPack>* const pack = own + pixel * (kPixelStride / kPack);
    float values[kPack] = {};
    if (inside(pixel, y, x)) {
      unpack(*pack, values);
#pragma unroll
      for (int j = 0; j < kPack; ++j) values[j] = silu(fold(j, values[j]));
    }
    store_pack(pack->value, values);
  }
}

// One lane's weights of one step: two columns of fragments per access.
struct Weights {
  uint4 pair[kFragmentColumns / 2];

  __device__ void load(const uint4* step) {
#pragma unroll
    for (int p = 0; p < kFragmentColumns / 2; ++p) pair[p] = step[p * 32];
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    fused_conv_kernel(FusedConvCudaParams params, ConvWorkspace workspace, int tiles, int columns) {
  __shared__ Shared shared;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int total = static_cast<int>(params.norm.channels);
  const int out_channels = static_cast<int>(params.out_channels),
            out_blocks = (out_channels + kOut - 1) / kOut;
  const int64_t block = int64_t{blockIdx.x} / out_blocks;
  Tile tile;
  tile.image = block / tiles;
  tile.index = static_cast<int>(block % tiles);
  tile.y = tile.index / columns * kTile;
  tile.x = tile.index % columns * kTile;
  tile.first_channel = static_cast<int>(blockIdx.x % out_blocks) * kOut;

  T* const halo = reinterpret_cast<T*>(shared.halo);
  // This lane's row of the first fragment of the first tap; see load_matrix.
  const T* const own = halo + (warp * kFragmentRows * kHalo + lane % 16) * kPixelStride + lane / 16 * 8;
  const int steps_of_16 = (total + 15) / 16;
  const uint4* step =
      static_cast<const uint4*>(workspace.weight) +
      static_cast<int64_t>(tile.first_channel / kOut) * steps_of_16 * kTaps * (kStep / kPack) + lane;
  float sums[kFragmentRows][kFragmentColumns][4] = {};
  Weights next;
  next.load(step);
  for (int chunk = 0; chunk < total; chunk += kChunk) {
    if (chunk > 0) __syncthreads();  // the taps of the chunk before have been read
    load_halo(params, workspace.folded, tile, chunk, halo);
    __syncthreads();
    const int end = total - chunk < kChunk ? (total - chunk + 15) / 16 : kChunk / 16;
#pragma unroll 1
    for (int k = 0; k < end; ++k) {
#pragma unroll 1
      for (int row = 0; row < 3; ++row) {
        const bool last = row == 2 && chunk / 16 + k + 1 == steps_of_16;
#pragma unroll
        for (int column = 0; column < 3; ++column) {
          const Weights weights = next;
          step += kStep / kPack;
          if (column < 2 || !last) next.load(step);
#pragma unroll
          for (int i = 0; i < kFragmentRows; ++i) {
            uint32_t a[4];
            load_matrix(a, own + ((i + row) * kHalo + column) * kPixelStride + k * 16);
#pragma unroll
            for (int p = 0; p < kFragmentColumns / 2; ++p) {
              multiply_add<T>(sums[i][2 * p], a, weights.pair[p].x, weights.pair[p].y);
              multiply_add<T>(sums[i][2 * p + 1], a, weights.pair[p].z, weights.pair[p].w);
            }
          }
        }
      }
    }
  }
  __syncthreads();

  // Lane l has channels 8 (l % 8) to 8 (l % 8) + 7 of pixels l / 8, l / 8 + 4, ... of what the warp has
  // staged.
  float* const staged = shared.out.staged[warp];
  const int out_channel = tile.first_channel + lane % kLanes * kPack;
  const bool exists = out_channel < out_channels;
  float bias[kPack] = {};
  if (params.bias && exists) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) bias[j] = to_float(static_cast<const T*>(params.bias)[out_channel + j]);
  }
  const int64_t first_pixel = tile.image * params.height * params.width;
  ShiftedSums<kPack> deviations;
  int count = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < kFragmentRows / 2; ++i) {
#pragma unroll
      for (int j = 0; j < kFragmentColumns; ++j) {
        const float (&d)[4] = sums[half * (kFragmentRows / 2) + i][j];
        float* const upper = staged + (i * kTile + lane / 4) * kStagedStride + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2*>(upper) = {d[0], d[1]};
        *reinterpret_cast<float2*>(upper + 8 * kStagedStride) = {d[2], d[3]};
      }
    }
    __syncwarp();
#pragma unroll 2
    for (int pixel = lane / kLanes; pixel < kStagedPixels; pixel += 32 / kLanes) {
      const int y = tile.y + warp * kFragmentRows + half * (kFragmentRows / 2) + pixel / kTile;
      const int x = tile.x + pixel % kTile;
      if (!exists || y >= params.height || x >= params.width) continue;
      const int64_t offset = (first_pixel + y * params.width + x) * out_channels + out_channel;
      float values[kPack];
      load_channels(staged + pixel * kStagedStride + lane % kLanes * kPack, values);
#pragma unroll
      for (int j = 0; j < kPack; ++j) values[j] += bias[j];
      if (params.residual) {
        float residual[kPack];
        unpack(load_pack<T, kPack>(static_cast<const T*>(params.residual) + offset), residual);
#pragma unroll
        for (int j = 0; j < kPack; ++j) values[j] += residual[j];
      }
      store_pack(static_cast<T*>(params.y) + offset, values);
      if (workspace.moments) {
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          values[j] = to_float(from_float<T>(values[j]));  // the moments are those of y
          if (count == 0) deviations.shift[j] = values[j];
        }
        deviations.add(values);
        ++count;
      }
    }
    __syncwarp();
  }
  if (!workspace.moments) return;

  constexpr float kNoBase[kPack] = {};
  Moments moments[kPack];
  deviations.moments(static_cast<float>(count), kNoBase, moments);
#pragma unroll
  for (int offset = kLanes; offset < 32; offset *= 2) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const Moments other = {__shfl_xor_sync(0xFFFFFFFFu, moments[j].count, offset),
                             __shfl_xor_sync(0xFFFFFFFFu, moments[j].mean, offset),
                             __shfl_xor_sync(0xFFFFFFFFu, moments[j].m2, offset)};
      moments[j] = Moments::combine(moments[j], other);
    }
  }
  if (lane < kLanes) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) shared.out.moments[warp][lane * kPack + j] = moments[j];
  }
  __syncthreads();
  const int channel = tile.first_channel + thread;
  if (thread >= kOut || channel >= out_channels) return;
  Moments of_tile = shared.out.moments[0][thread];
  for (int w = 1; w < kWarps; ++w) of_tile = Moments::combine(of_tile, shared.out.moments[w][thread]);
  workspace.moments[(tile.image * tiles + tile.index) * out_channels + channel] = of_tile.stored();
}

// Puts the weight into the order in which the lanes read it: element h of lane l of pair p of a step is of
// fragment column 2 p + h / 4, of which it is in column l / 4 and row 2 (l % 4) + 8 (h / 2 % 2) + h % 2.
// Zeros fill up.
template <typename T>
__global__ void __launch_bounds__(kChannelThreads)
    arrange_weight_kernel(const T* weight, ConvWeightStrides strides, int64_t out_channels, int64_t channels,
                          int64_t size, T* arranged) {
  const int64_t i = int64_t{blockIdx.x} * kChannelThreads + threadIdx.x;
  if (i >= size) return;
  const int h = static_cast<int>(i % kPack), l = static_cast<int>(i / kPack % 32);
  const int pair = static_cast<int>(i / (kPack * 32) % (kFragmentColumns / 2));
  const int64_t tap = i / kStep % kTaps, step_of_16 = i / (kStep * kTaps) % ceil_div(channels, 16);
  const int64_t channel = step_of_16 * 16 + l % 4 * 2 + h / 2 % 2 * 8 + h % 2;
  const int64_t out = i / (kStep * kTaps) / ceil_div(channels, 16) * kOut + (2 * pair + h / 4) * 8 + l / 4;
  T value = from_float<T>(0.0f);
  if (out < out_channels && channel < channels)
    value = weight[out * strides.out + channel * strides.channel + tap / 3 * strides.row +
                   tap % 3 * strides.column];
  arranged[i] = value;
}

// Calls body(T{}) with the 16-bit element type of `dtype`.
template <typename Body>
void with_16_bits(DType dtype, const char* where, const Body& body) {
  if (dtype == DType::kBFloat16) return body(__nv_bfloat16{});
  if (dtype == DType::kFloat16) return body(__half{});
  throw std::invalid_argument(std::string(where) + ": dtype must be bfloat16 or float16");
}

Tiling tiling_of(const FusedConvCudaParams& params) { return {params.height, params.width, kTile, kTile}; }

int64_t weight_size(const FusedConvCudaParams& params) {
  return ceil_div(params.out_channels, kOut) * ceil_div(params.norm.channels, 16) * kTaps * kStep;
}

ConvWorkspace workspace_of(const FusedConvCudaParams& params) {
  const int64_t images = params.norm.images(), tiles = tiling_of(params).tiles();
  Workspace arrays(params.workspace);
  ConvWorkspace workspace;
  workspace.weight = arrays.take<char>(weight_size(params) * size_of(params.dtype));
  workspace.folded = arrays.take<float>(3 * images * params.norm.channels);
  workspace.moments = params.statistics ? arrays.take<float2>(images * tiles * params.out_channels) : nullptr;
  workspace.bytes = arrays.bytes_from(params.workspace);
  return workspace;
}

template <typename T>
void launch(const FusedConvCudaParams& params, cudaStream_t stream) {
  const ConvWorkspace workspace = workspace_of(params);
  const Tiling tiling = tiling_of(params);
  const int64_t size = weight_size(params), images = params.norm.images();
  const int64_t blocks = tiling.tiles() * ceil_div(params.out_channels, kOut);
  if (images > kMaxGrid / blocks || tiling.pixels() > kMaxGrid)
    throw std::invalid_argument("fused_conv_cuda: the tensor is too large for one grid");
  arrange_weight_kernel<T>
      <<<static_cast<unsigned>(ceil_div(size, kChannelThreads)), kChannelThreads, 0, stream>>>(
          static_cast<const T*>(params.weight), params.weight_strides, params.out_channels,
          params.norm.channels, size, static_cast<T*>(workspace.weight));
  fold_group_norm_cuda(params.norm, workspace.folded, stream);
  fused_conv_kernel<T><<<static_cast<unsigned>(images * blocks), kThreads, 0, stream>>>(
      params, workspace, static_cast<int>(tiling.tiles()), static_cast<int>(tiling.columns()));
  if (params.statistics)
    combine_tiles<Moments>(workspace.moments, tiling, images, params.out_channels, {},
                           reinterpret_cast<double2*>(params.statistics), params.out_channels, stream);
}

}  // namespace

int64_t fused_conv_cuda_workspace(const FusedConvCudaParams& params) { return workspace_of(params).bytes; }

void fused_conv_cuda(const FusedConvCudaParams& params, void* stream) {
  constexpr const char* kWhere = "fused_conv_cuda";
  if (params.norm.images() == 0 || params.height * params.width * params.out_channels == 0) return;
  with_16_bits(params.dtype, kWhere,
               [&](auto element) { launch<decltype(element)>(params, static_cast<cudaStream_t>(stream)); });
  check_cuda(cudaGetLastError(), kWhere);
}

}  // namespace vdm
