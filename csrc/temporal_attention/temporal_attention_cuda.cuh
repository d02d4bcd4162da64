// What the passes of temporal_attention on CUDA share. A warp has 16 query frames of one pixel and head,
// which are all of them up to F = 16, and multiplies on tensor cores (float32 as three products of
// TensorFloat-32). Between memory and the products there is nothing but registers.
//
// A product needs its factors in an order of lanes that is not that of memory. But the 16 terms of a sum can
// come in any order, and so can the columns of a result, if both sides agree. With g = lane / 4, t = lane % 4
// and 32 columns at a time:
//   a strip   is 8 adjacent columns of row g, one access of 16 bytes (float32: twice 4 of them, two
//   accesses).
//             q k^T sums over columns: two strips are four terms each of two sums of 16.
//   a block   is 4 adjacent columns, from 4 g on, of the rows 2t, 2t + 1, 2t + 8 and 2t + 9. p v sums over
//             rows, and a lane's sums are 8 adjacent columns again: 4 (2t + e) + m in column 2t + e of the
//             m-th product.
//   scores    are, as products leave them, four terms of rows g and g + 8 for the next product.
//
// Traffic: forward reads qkv once and writes out once. Backward recomputes the softmax, reads qkv and dout
// and writes dqkv once; it reads k, q and dout again as blocks, soon enough to find them in the L1 cache.
// With more than 16 frames, the warps of a pixel read the same keys at about the same time, through L1. 8 x
// 16 x 4096 pixels, 8 heads of 32 in bfloat16 (268 MB each of q, k, v and out): 250 us forward and 437 us
// backward at 4.3 TB/s.
//
// Every warp walks over many pixels. Bias and segments are what it adds to its scores, kept in shared memory
// where each lane reads back what it wrote. The gradient of the bias adds up in the same way, one plane for
// all the pixels of a warp; Python adds up the planes. All orders are fixed.
#pragma once

#include "common/channel_access.cuh"
#include "common/tensor_core.cuh"
#include "temporal_attention/temporal_attention_cuda.h"

namespace vdm {

constexpr int kTile = 16;   // frames of a warp
constexpr int kChunk = 32;  // columns at a time
constexpr float kLog2E = 1.4426950408889634f;

// A team is the warps of one pixel and head. Up to 16 frames it is one warp, and a thread block has four
// teams.
template <int kTiles>
constexpr int kTeams = kTiles == 1 ? 4 : 1;
template <int kTiles>
constexpr int kThreads = 32 * kTiles * kTeams<kTiles>;
// Scores of more tiles leave too few registers.
template <typename T>
constexpr int kMostTiles = sizeof(T) == 2 ? 4 : 2;

// The number of chunks: known to the compiler, so that the loads of all are in flight at once, or kAnyChunks.
constexpr int kAnyChunks = 0;
template <typename T>
constexpr int kMostChunks = 4 / sizeof(T);

// The warps that a multiprocessor shall hold at once, by the registers that they need: of one tile and one
// chunk, two, any; of two tiles; of four. launch.py has the same table.
constexpr int kResidentWarps[2][2][5] = {{{24, 16, 12, 16, 12}, {16, 12, 12, 12, 8}},
                                         {{12, 0, 12, 12, 0}, {8, 0, 12, 8, 0}}};
template <int kTiles, int kChunks>
constexpr int kColumn = kTiles > 1              ? kTiles / 2 + 2
                        : kChunks == kAnyChunks ? 2
                                                : kChunks - 1;
template <typename T, int kTiles, int kChunks, bool kBackward>
constexpr int kResidentBlocks =
    kResidentWarps[sizeof(T) / 4][kBackward][kColumn<kTiles, kChunks>] * 32 / kThreads<kTiles>;

template <typename T>
using Four = Pack<T, 4>;

// 16 rows of scores and their gradients: 8 columns each, of which a lane has 2 of rows g and g + 8.
template <int kTiles>
using Scores = float[2 * kTiles][4];
// Numbers that stay with their lane, in shared memory.
template <int kTiles>
using LaneScores = float4[2 * kTiles][32];

__device__ inline int lane_group() { return static_cast<int>(threadIdx.x) % 32 / 4; }
__device__ inline int lane_in_group() { return static_cast<int>(threadIdx.x) % 4; }

// The frames of a pixel and head.
template <typename T>
struct Rows {
  T* first;
  int64_t stride;
  int count, width;
};

template <int kChunks>
__device__ int chunks_of(int width) {
  return kChunks == kAnyChunks ? (width + kChunk - 1) / kChunk : kChunks;
}

template <typename T>
struct Strip {
  Four<T> terms[2];
};

template <typename T>
__device__ Strip<T> load_strip(const Rows<const T>& rows, int row, int chunk) {
  constexpr int kAccesses = sizeof(Strip<T>) / sizeof(uint4);
  union {
    uint4 bits[kAccesses];
    Strip<T> strip;
  } word;
#pragma unroll
  for (int i = 0; i < kAccesses; ++i) {
    const int column = chunk * kChunk + (4 * i + lane_in_group()) * kPackWidth<T>;
    word.bits[i] = uint4{};
    if (row < rows.count && column < rows.width)
      word.bits[i] = __ldg(reinterpret_cast<const uint4*>(rows.first + row * rows.stride + column));
  }
  return word.strip;
}

template <typename T>
struct Block {
  Four<T> row[4];

  __device__ Four<T> column(int m) const {
    return {{row[0].value[m], row[1].value[m], row[2].value[m], row[3].value[m]}};
  }
};

template <typename T>
__device__ Block<T> load_block(const Rows<const T>& rows, int tile, int chunk) {
  using Bits = typename GroupBits<T>::Type;
  union {
    Bits bits[4];
    Block<T> block;
  } word;
  const int column = chunk * kChunk + 4 * lane_group();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = tile * kTile + 2 * lane_in_group() + i % 2 + i / 2 * 8;
    word.bits[i] = Bits{};
    if (row < rows.count && column < rows.width)
      word.bits[i] = __ldg(reinterpret_cast<const Bits*>(rows.first + row * rows.stride + column));
  }
  return word.block;
}

// A lane's terms of the left factor: of rows g and g + 8.
template <typename T>
struct Left {
  Four<T> upper, lower;
};

template <typename T>
__device__ uint2 words(const Four<T>& four) {
  union {
    Four<T> four;
    uint2 bits;
  } word;
  word.four = four;
  return word.bits;
}

// sums += left right, of 16 terms.
template <typename T>
__device__ void accumulate(float (&sums)[4], const Left<T>& left, const Four<T>& right) {
  if constexpr (sizeof(T) == 2) {
    const uint2 upper = words(left.upper), lower = words(left.lower), b = words(right);
    const uint32_t a[4] = {upper.x, lower.x, upper.y, lower.y};
    multiply_add<T>(sums, a, b.x, b.y);
  } else {
    // x = big + small + at most 2^-24 x. The product of what is small is left out.
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const float a[4] = {left.upper.value[i], left.lower.value[i], left.upper.value[i + 1],
                          left.lower.value[i + 1]};
      float big[4], small[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        big[j] = round_to_tf32(a[j]);
        small[j] = round_to_tf32(a[j] - big[j]);
      }
      const float b0 = round_to_tf32(right.value[i]), b1 = round_to_tf32(right.value[i + 1]);
      multiply_add_tf32(sums, small, b0, b1);
      multiply_add_tf32(sums, big, round_to_tf32(right.value[i] - b0),
                        round_to_tf32(right.value[i + 1] - b1));
      multiply_add_tf32(sums, big, b0, b1);
    }
  }
}

template <typename T>
__device__ Left<T> rounded(const Left<float>& left) {
  const auto round = [](const Four<float>& x) -> Four<T> {
    return {{from_float<T>(x.value[0]), from_float<T>(x.value[1]), from_float<T>(x.value[2]),
             from_float<T>(x.value[3])}};
  };
  return {round(left.upper), round(left.lower)};
}

template <typename T>
__device__ Left<float> rest(const Left<float>& left, const Left<T>& taken) {
  const auto minus = [](const Four<float>& x, const Four<T>& y) -> Four<float> {
    return {{x.value[0] - to_float(y.value[0]), x.value[1] - to_float(y.value[1]),
             x.value[2] - to_float(y.value[2]), x.value[3] - to_float(y.value[3])}};
  };
  return {minus(left.upper, taken.upper), minus(left.lower, taken.lower)};
}

// Keeps the compiler from loading a value later than here.
template <typename Value>
__device__ void keep(Value& value) {
  union {
    Value value;
    uint32_t words[sizeof(Value) / sizeof(uint32_t)];
  } held;
  held.value = value;
#pragma unroll
  for (uint32_t& word : held.words) asm volatile("" : "+r"(word));
  value = held.value;
}

// a b^T, of a tile of a and all of b. Where the number of chunks is known, everything is asked for at once,
// before the product.
template <typename T, int kTiles, int kChunks>
struct RowProducts {
  static constexpr bool kAhead = kChunks != kAnyChunks;
  const Rows<const T> a, b;
  const int tile;
  Strip<T> left[kAhead ? kChunks : 1][2], right[kAhead ? kChunks : 1][2];

  __device__ RowProducts(const Rows<const T>& a, int tile, const Rows<const T>& b) : a(a), b(b), tile(tile) {
    if constexpr (kAhead) {
      static_assert(kTiles == 1);
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          left[chunk][half] = load_strip(a, lane_group() + 8 * half, chunk);
          right[chunk][half] = load_strip(b, lane_group() + 8 * half, chunk);
        }
      }
#pragma unroll
      for (int chunk = 0; chunk < kChunks; ++chunk) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          keep(left[chunk][half]);
          keep(right[chunk][half]);
        }
      }
    }
  }

  __device__ void add_to(Scores<kTiles>& sums) const {
    const int chunks = chunks_of<kChunks>(b.width);
#pragma unroll(kAhead ? kChunks : 1)
    for (int chunk = 0; chunk < chunks; ++chunk) {
      Strip<T> rows[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if constexpr (kAhead) {
          rows[half] = left[chunk][half];
        } else {
          rows[half] = load_strip(a, tile * kTile + lane_group() + 8 * half, chunk);
        }
      }
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j > 0 && j * kTile >= b.count) break;
#pragma unroll
        for (int n = 2 * j; n < 2 * j + 2; ++n) {
          Strip<T> column;
          if constexpr (kAhead) {
            column = right[chunk][n];
          } else {
            column = load_strip(b, n * 8 + lane_group(), chunk);
          }
#pragma unroll
          for (int i = 0; i < 2; ++i)
            accumulate<T>(sums[n], {rows[0].terms[i], rows[1].terms[i]}, column.terms[i]);
        }
      }
    }
  }
};

// 16 bytes in one access, which the compiler makes of a plain one only where it wants to.
template <typename T>
__device__ void store_whole(T* address, const Pack<T, kPackWidth<T>>& pack) {
  union {
    Pack<T, kPackWidth<T>> pack;
    uint4 bits;
  } word;
  word.pack = pack;
  __stwb(reinterpret_cast<uint4*>(address), word.bits);
}

// A tile of out = factor sum_j left(j) block(j, chunk), with a factor for each of this lane's two rows. For
// 16-bit types, left is rounded once, or taken as the sum of two (kSplit): gradients of p would add as much
// error as rounding the result does.
template <int kTiles, int kChunks, bool kSplit, typename T, typename LeftOf, typename BlockOf>
__device__ void combine_rows(const Rows<T>& out, int tile, const float (&factor)[2], const LeftOf& left,
                             const BlockOf& block) {
  const int chunks = chunks_of<kChunks>(out.width);
#pragma unroll(kChunks == kAnyChunks ? 1 : kChunks)
  for (int chunk = 0; chunk < chunks; ++chunk) {
    float sums[4][4] = {};
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      if (j > 0 && j * kTile >= out.count) break;
      const Block<T> right = block(j, chunk);
      const Left<float> weights = left(j);
      const Left<T> big = rounded<T>(weights);
#pragma unroll
      for (int m = 0; m < 4; ++m) accumulate<T>(sums[m], big, right.column(m));
      if constexpr (kSplit && sizeof(T) == 2) {
        const Left<T> small = rounded<T>(rest<T>(weights, big));
#pragma unroll
        for (int m = 0; m < 4; ++m) accumulate<T>(sums[m], small, right.column(m));
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile * kTile + lane_group() + 8 * half;
#pragma unroll
      for (int first = 0; first < 8; first += kPackWidth<T>) {
        Pack<T, kPackWidth<T>> pack;
#pragma unroll
        for (int i = 0; i < kPackWidth<T>; ++i)
          pack.value[i] = from_float<T>(sums[i % 4][2 * half + (first + i) / 4] * factor[half]);
        const int column = chunk * kChunk + 8 * lane_in_group() + first;
        if (row < out.count && column < out.width) store_whole(out.first + row * out.stride + column, pack);
      }
    }
  }
}

// A lane's terms of a sum over the frames of tile j.
template <int kTiles>
__device__ Left<float> left_of(const Scores<kTiles>& scores, int j) {
  const float (&a)[4] = scores[2 * j], (&b)[4] = scores[2 * j + 1];
  return {{{a[0], a[1], b[0], b[1]}}, {{a[2], a[3], b[2], b[3]}}};
}

template <typename Combine>
__device__ void combine_columns(float (&row)[2], const Combine& combine) {
#pragma unroll
  for (int offset = 1; offset < 4; offset *= 2) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      row[half] = combine(row[half], __shfl_xor_sync(0xFFFFFFFFu, row[half], offset));
  }
}

// The sums of a_ij b_ij over the columns j.
template <int kTiles>
__device__ void row_products(const Scores<kTiles>& a, const Scores<kTiles>& b, float (&sums)[2]) {
  sums[0] = sums[1] = 0.0f;
#pragma unroll
  for (int n = 0; n < 2 * kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i / 2] = fmaf(a[n][i], b[n][i], sums[i / 2]);
  }
  combine_columns(sums, [](float x, float y) { return x + y; });
}

// p = 2^(scale s + additive - m) with the row's maximum m, in place of s; the inverse of the sum of each row.
template <int kTiles>
__device__ void exponentials(Scores<kTiles>& s, const LaneScores<kTiles>& additive, float scale,
                             float (&inverse)[2]) {
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
#pragma unroll
  for (int n = 0; n < 2 * kTiles; ++n) {
    const float4 added = additive[n][threadIdx.x % 32];
    s[n][0] = fmaf(s[n][0], scale, added.x);
    s[n][1] = fmaf(s[n][1], scale, added.y);
    s[n][2] = fmaf(s[n][2], scale, added.z);
    s[n][3] = fmaf(s[n][3], scale, added.w);
#pragma unroll
    for (int i = 0; i < 4; ++i) most[i / 2] = fmaxf(most[i / 2], s[n][i]);
  }
  combine_columns(most, [](float x, float y) { return fmaxf(x, y); });
#pragma unroll
  for (int n = 0; n < 2 * kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) total[i / 2] += s[n][i] = exp2f(s[n][i] - most[i / 2]);
  }
  combine_columns(total, [](float x, float y) { return x + y; });
#pragma unroll
  for (int half = 0; half < 2; ++half) inverse[half] = __fdividef(1.0f, total[half]);
}

// Which part of the work a warp has.
struct Part {
  int64_t plane;  // (group, split, head): of the partial sums of dbias
  int64_t group;
  int split, head, tile;
  int warp;  // of the thread block
};

template <int kTiles>
__device__ Part part_of(const TemporalAttentionInput& input, int64_t splits) {
  Part part;
  part.warp = static_cast<int>(threadIdx.x) / 32;
  part.plane = int64_t{blockIdx.x} * kTeams<kTiles> + part.warp / kTiles;
  part.tile = part.warp % kTiles;
  part.head = static_cast<int>(part.plane % input.heads);
  part.split = static_cast<int>(part.plane / input.heads % splits);
  part.group = part.plane / input.heads / splits;
  return part;
}

// The query and the key, frames of a sequence, of number i of n of a lane's scores.
__device__ inline int query_of(int tile, int i) { return tile * kTile + lane_group() + i / 2 * 8; }
__device__ inline int key_of(int n, int i) { return n * 8 + 2 * lane_in_group() + i % 2; }

// What is added to the scores: the bias, -inf between segments and past the last frame. Queries past it get
// finite scores, so that nothing that is multiplied by their zeros is NaN.
template <int kTiles>
__device__ void load_additive(const TemporalAttentionInput& input, const Part& part,
                              LaneScores<kTiles>& additive) {
  const int frames = static_cast<int>(input.frames);
  const int64_t plane = (input.bias_per_sample ? part.group * input.heads : 0) + part.head;
  const float* const bias = input.bias ? input.bias + plane * frames * frames : nullptr;
  const int64_t* const ids = input.segment_ids ? input.segment_ids + part.group * frames : nullptr;
#pragma unroll 1
  for (int n = 0; n < 2 * kTiles; ++n) {
    float added[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = query_of(part.tile, i), key = key_of(n, i);
      added[i] = 0.0f;
      if (key >= frames) {
        added[i] = -INFINITY;
      } else if (query < frames) {
        if (bias) added[i] = bias[query * frames + key] * kLog2E;
        if (ids && ids[query] != ids[key]) added[i] = -INFINITY;
      }
    }
    additive[n][threadIdx.x % 32] = {added[0], added[1], added[2], added[3]};
  }
}

// Where the frames of a sequence begin in a tensor of (batch, frames, pixels, planes, heads, width), and
// their distance.
template <typename T>
struct Video {
  T* first;
  int64_t stride;
  int planes, plane, frames, width;
  uint32_t pixels;

  __device__ Video(T* data, const TemporalAttentionInput& input, const Part& part, int planes)
      : first(data + part.head * input.width),
        stride(input.pixels * planes * input.heads * input.width),
        planes(planes),
        plane(static_cast<int>(input.heads * input.width)),
        frames(static_cast<int>(input.frames)),
        width(static_cast<int>(input.width)),
        pixels(static_cast<uint32_t>(input.pixels)) {}

  __device__ Rows<T> rows(uint32_t sequence, int which = 0) const {
    const uint32_t sample = sequence / pixels, pixel = sequence % pixels;
    const int64_t offset = int64_t{sample} * frames * stride + int64_t{pixel} * planes * plane;
    return {first + offset + which * plane, stride, frames, width};
  }
};

__device__ inline uint32_t group_sequences(const TemporalAttentionInput& input, int64_t groups) {
  return static_cast<uint32_t>(input.batch / groups * input.pixels);
}

template <int kValue>
using Number = std::integral_constant<int, kValue>;

// Calls body(T{}, tiles, chunks) with numbers of tiles of 16 frames and chunks of 32 columns that the
// compiler knows.
template <typename Body>
void with_sizes(const TemporalAttentionInput& input, const char* where, const Body& body) {
  const int64_t tiles = ceil_div(input.frames, kTile), chunks = ceil_div(input.width, kChunk);
  if (input.width * size_of(input.dtype) % 16 != 0 || chunks > 4 || input.batch * input.pixels > INT32_MAX)
    throw std::invalid_argument(std::string(where) + ": no kernel for these sizes");
  with_dtype(input.dtype, [&](auto element) {
    using T = decltype(element);
    if (tiles > kMostTiles<T>) throw std::invalid_argument(std::string(where) + ": too many frames");
    if constexpr (kMostTiles<T> > 2)
      if (tiles > 2) return body(element, Number<4>{}, Number<kAnyChunks>{});
    if constexpr (kMostChunks<T> > 1)
      if (tiles == 1 && chunks == 2) return body(element, Number<1>{}, Number<2>{});
    if (tiles == 2) return body(element, Number<2>{}, Number<kAnyChunks>{});
    if (chunks == 1) return body(element, Number<1>{}, Number<1>{});
    body(element, Number<1>{}, Number<kAnyChunks>{});
  });
}

template <int kTiles>
unsigned thread_blocks(const TemporalAttentionInput& input, int64_t groups, int64_t splits) {
  return static_cast<unsigned>(ceil_div(groups * splits * input.heads, kTeams<kTiles>));
}

inline float scale_of(const TemporalAttentionInput& input) {
  return 1.0f / sqrtf(static_cast<float>(input.width));
}

}  // namespace vdm
