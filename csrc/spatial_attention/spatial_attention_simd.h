// The CPU kernels of spatial_attention: some of the queries of one head of one image.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "common/types.h"

namespace vdm {

constexpr int64_t kSpatialQueries = 64;  // are worked on together,
constexpr int64_t kSpatialKeys = 128;    // with so many keys at a time
constexpr int64_t kSpatialPadding = 16;  // rows in scratch are padded to a multiple of this

constexpr float kLog2E = 1.44269504f;  // scores are to the base 2

// The `count` rows of one head in a tensor: pixel p's are `channels` elements from p * stride on.
template <typename Tensor>
struct SpatialTensor {
  Tensor* tensor;
  DType dtype;
  int64_t count, stride, channels;
};
using SpatialRows = SpatialTensor<const void>;
using SpatialOutput = SpatialTensor<void>;

struct SpatialTask {
  SpatialRows q, k, v;
  // (2 height - 1, 2 width - 1), times log2(e), followed by kSpatialPadding readable floats; or null
  const float* table;
  int64_t height, width;
  const SpatialTask* next = nullptr;  // of the head that comes after this one, if any: what is fetched ahead
};

struct SpatialGradientTask {
  SpatialTask task;
  SpatialRows dout;
  SpatialOutput dq;  // its tensor is null where only dtable is needed: then those of dk and dv are too
  float *dk, *dv;    // (pixels, padded channels), set; where they have rows below, these are room for sums
  SpatialOutput dk_rows, dv_rows;  // set; their tensors are null where dk and dv are parts of a sum
  float* dtable;  // (2 height - 1, 2 width - 1), followed by kSpatialPadding floats, set; or null
  const SpatialGradientTask* next = nullptr;  // as task.next
};

// For one thread, 64-byte aligned. Widths are padded channels; what is transposed has a column for each of
// kSpatialQueries queries.
struct SpatialScratch {
  float *k, *v;                     // (pixels, padded channels)
  float* q_transposed;              // (padded channels, queries)
  float* scores;                    // (keys, queries) and kSpatialPadding floats; backward: of all pixels
  float* out;                       // (queries, padded channels); backward: dq
  float *top, *sum, *dot, *factor;  // (queries,): of the online softmax
  // Backward:
  float *q, *dout;         // (queries, padded channels)
  float* dout_transposed;  // (padded channels, queries)
  float* dscores;          // (pixels, queries)
  float* tops;             // (blocks of keys, queries)
  float* skewed;           // see add_to_table
};

// Floats of SpatialScratch::skewed: rows of a query each key, and a vector of zeros on either side.
constexpr int64_t kSpatialSkewed = kSpatialKeys * (kSpatialQueries + 2 * kSpatialPadding);

// Queries [first, last).
VDM_DECLARE_SIMD(spatial_attend, (const SpatialTask& task, const SpatialOutput& out, int64_t first,
                                  int64_t last, const SpatialScratch& scratch))
VDM_DECLARE_SIMD(spatial_attend_bwd, (const SpatialGradientTask& gradient, int64_t first, int64_t last,
                                      const SpatialScratch& scratch))

// out[row] = sum over i of partials[i * partial + row * padded channels ...], for `rows` rows.
VDM_DECLARE_SIMD(spatial_write_sum, (const float* partials, int64_t count, int64_t partial, int64_t rows,
                                     const SpatialOutput& out))

}  // namespace vdm
