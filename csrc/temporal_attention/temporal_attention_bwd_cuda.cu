// The backward pass of temporal_attention on CUDA; see temporal_attention_cuda.cuh.
#include "temporal_attention/temporal_attention_cuda.cuh"

namespace vdm {
namespace {

template <int kTiles>
struct BackwardShared {
  static constexpr int kWarps = kTiles * kTeams<kTiles>;
  static constexpr int kFrames = kTile * kTiles;
  // Transposed; rows lie 16 bytes apart in banks.
  using Weights = float[kFrames][kFrames + 4];

  LaneScores<kTiles> additive[kWarps], dbias[kWarps];
  Weights p[kTeams<kTiles>], ds[kTeams<kTiles>];
};

// Puts a lane's scores where the rows of the transpose are read.
template <int kTiles>
__device__ void store_transposed(const Scores<kTiles>& scores, int tile,
                                 typename BackwardShared<kTiles>::Weights& weights) {
#pragma unroll
  for (int n = 0; n < 2 * kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[key_of(n, i)][query_of(tile, i)] = scores[n][i];
  }
}

// A lane's terms, of rows of a tile of the transpose, of a sum over the frames of tile j.
template <int kTiles>
__device__ Left<float> load_left(const typename BackwardShared<kTiles>::Weights& weights, int tile, int j) {
  const auto terms_of = [&](int row) -> Four<float> {
    const float* const terms = weights[tile * kTile + row] + j * kTile + 2 * lane_in_group();
    const float2 first = *reinterpret_cast<const float2*>(terms);
    const float2 second = *reinterpret_cast<const float2*>(terms + 8);
    return {{first.x, first.y, second.x, second.y}};
  };
  return {terms_of(lane_group()), terms_of(lane_group() + 8)};
}

template <int kTiles>
__device__ void sync_team() {
  if constexpr (kTiles == 1) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

template <typename T, int kTiles, int kChunks>
__global__ void __launch_bounds__(kThreads<kTiles>, kResidentBlocks<T, kTiles, kChunks, true>)
    temporal_attention_bwd_kernel(TemporalAttentionBackwardCudaParams params, float scale) {
  auto& shared = *dynamic_shared<BackwardShared<kTiles>>();
  const TemporalAttentionInput& input = params.input;
  const Part part = part_of<kTiles>(input, params.splits);
  if (part.group >= params.groups) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  LaneScores<kTiles>&additive = shared.additive[part.warp], &dbias = shared.dbias[part.warp];
  auto &weights = shared.p[part.warp / kTiles], &ds_weights = shared.ds[part.warp / kTiles];
  load_additive<kTiles>(input, part, additive);
  for (int n = 0; n < 2 * kTiles; ++n) dbias[n][lane] = {};
  const Video<const T> qkv(static_cast<const T*>(input.qkv), input, part, 3);
  const Video<const T> grad(static_cast<const T*>(params.dout), input, part, 1);
  const Video<T> dqkv(static_cast<T*>(params.dqkv), input, part, 3);
  const uint32_t sequences = group_sequences(input, params.groups);
  const float in_log2 = scale * kLog2E;
  for (uint32_t turn = part.split; turn < sequences; turn += static_cast<uint32_t>(params.splits)) {
    const uint32_t sequence = static_cast<uint32_t>(part.group) * sequences + turn;
    const Rows<const T> q = qkv.rows(sequence, 0), k = qkv.rows(sequence, 1), v = qkv.rows(sequence, 2);
    const Rows<const T> dout = grad.rows(sequence);
    const RowProducts<T, kTiles, kChunks> q_k(q, part.tile, k), dout_v(dout, part.tile, v);
    Scores<kTiles> p = {}, ds = {};
    q_k.add_to(p);
    dout_v.add_to(ds);
    float inverse[2], delta[2];
    exponentials<kTiles>(p, additive, in_log2, inverse);
#pragma unroll
    for (int n = 0; n < 2 * kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) p[n][i] *= inverse[i / 2];
    }
    row_products<kTiles>(p, ds, delta);
#pragma unroll
    for (int n = 0; n < 2 * kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) ds[n][i] = p[n][i] * (ds[n][i] - delta[i / 2]);
    }
    if (params.partial) {
#pragma unroll
      for (int n = 0; n < 2 * kTiles; ++n) {
        const float4 sum = dbias[n][lane];
        dbias[n][lane] = {sum.x + ds[n][0], sum.y + ds[n][1], sum.z + ds[n][2], sum.w + ds[n][3]};
      }
    }
    if (!params.dqkv) continue;
    constexpr float kOne[2] = {1.0f, 1.0f};
    const float scales[2] = {scale, scale};
    store_transposed<kTiles>(p, part.tile, weights);
    store_transposed<kTiles>(ds, part.tile, ds_weights);
    combine_rows<kTiles, kChunks, true>(
        dqkv.rows(sequence, 0), part.tile, scales, [&](int j) { return left_of<kTiles>(ds, j); },
        [&](int j, int chunk) { return load_block(k, j, chunk); });
    sync_team<kTiles>();
    combine_rows<kTiles, kChunks, true>(
        dqkv.rows(sequence, 1), part.tile, scales,
        [&](int j) { return load_left<kTiles>(ds_weights, part.tile, j); },
        [&](int j, int chunk) { return load_block(q, j, chunk); });
    combine_rows<kTiles, kChunks, true>(
        dqkv.rows(sequence, 2), part.tile, kOne,
        [&](int j) { return load_left<kTiles>(weights, part.tile, j); },
        [&](int j, int chunk) { return load_block(dout, j, chunk); });
    sync_team<kTiles>();
  }
  if (!params.partial) return;
  const int frames = static_cast<int>(input.frames);
  float* const plane = params.partial + part.plane * frames * frames;
#pragma unroll 1
  for (int n = 0; n < 2 * kTiles; ++n) {
    const float4 sum = dbias[n][lane];
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = query_of(part.tile, i), key = key_of(n, i);
      if (query < frames && key < frames) plane[query * frames + key] = values[i];
    }
  }
}

}  // namespace

void temporal_attention_bwd_cuda(const TemporalAttentionBackwardCudaParams& params, void* stream) {
  constexpr const char* kWhere = "temporal_attention_bwd_cuda";
  with_sizes(params.input, kWhere, [&](auto element, auto tiles, auto chunks) {
    const auto kernel = temporal_attention_bwd_kernel<decltype(element), tiles.value, chunks.value>;
    const unsigned blocks = thread_blocks<tiles.value>(params.input, params.groups, params.splits);
    constexpr int kBytes = sizeof(BackwardShared<tiles.value>);
    if (kBytes > 48 << 10)
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), kWhere);
    kernel<<<blocks, kThreads<tiles.value>, kBytes, static_cast<cudaStream_t>(stream)>>>(
        params, scale_of(params.input));
  });
  check_cuda(cudaGetLastError(), kWhere);
}

}  // namespace vdm
