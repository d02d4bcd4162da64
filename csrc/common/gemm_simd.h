// Small matrix products whose operands are in the L1 and L2 caches: C (+)= A B for one panel of B.
//
// A tile of C stays in registers over the whole of k: 12 rows of two vectors with AVX-512, 6 of two with 16
// registers. Each step loads two vectors of B once for all rows and broadcasts one element of A per row for
// both, so that the multipliers and not the load ports are the limit. All tile sizes sum in the same order:
// an element of C does not depend on how many rows are computed together.
#pragma once

#include "common/simd.h"

namespace vdm {
namespace VDM_ISA {

// Panels are 32 columns (or 16, at the end) for every instruction set, so that packed matrices do not depend
// on it.
constexpr int kPanel = 32;
constexpr int kHalfPanel = 16;

#if defined(VDM_ISA_AVX512)
constexpr int kGemmRows = 12;
#else
constexpr int kGemmRows = 6;
#endif

// Element (m, k) of A is a[m * row + k * step]: either may be the contiguous one.
struct GemmA {
  const float* data;
  int64_t row, step;
};

// The sum of `count` products of one shape, whose operands are at constant distances.
struct GemmSum {
  int64_t count, a_step, b_step;
};
constexpr GemmSum kOneProduct = {1, 0, 0};

// What gemm_add does besides at each step of k: a place for prefetches, many of which at once stall. An
// errand is passed by value; one that goes on from tile to tile has its state elsewhere.
struct NoErrand {
  VDM_MEMBER void operator()() const {}
};

// Cache lines to bring nearer: data + each of some offsets.
struct GemmLines {
  const char* data;
  const int32_t *offset, *last;
};

// Brings what will be read soon nearer, a cache line at each step.
struct GemmAhead {
  const GemmLines *next, *last;
  GemmLines now;

  VDM_MEMBER void fetch() {
    if (now.offset < now.last) {
      prefetch(now.data + *now.offset++);
    } else if (next < last) {
      now = *next++;
    }
  }
};
struct GemmFetch {
  GemmAhead* ahead;
  VDM_MEMBER void operator()() const { ahead->fetch(); }
};

// sum[m][v] += sum over k of A(m, k) b[k * b_step + v * kLanes].
template <int kRows, int kColumnVectors, typename Errand = NoErrand>
VDM_INLINE void gemm_add(F32 (&sum)[kRows][kColumnVectors], GemmA a, const float* b, int64_t b_step,
                         int64_t k, Errand errand = Errand()) {
  // Three rows share a pointer: base, base + row and base + 2 row are addressing modes.
  const float* rows[(kRows + 2) / 3];
#pragma GCC unroll 4
  for (int i = 0; i < (kRows + 2) / 3; ++i) rows[i] = a.data + 3 * i * a.row;
  for (int64_t i = 0; i < k; ++i) {
    F32 columns[kColumnVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) columns[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
      const F32 element = splat(rows[m / 3][m % 3 * a.row]);
#pragma GCC unroll 2
      for (int v = 0; v < kColumnVectors; ++v) sum[m][v] = fma(element, columns[v], sum[m][v]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < (kRows + 2) / 3; ++j) rows[j] += a.step;
    b += b_step;
    errand();
  }
}

// C[m][n] (+)= sum over k of A(m, k) b[k * b_step + n], m < kRows, n < kColumnVectors * kLanes.
template <int kRows, int kColumnVectors, bool kAccumulate, typename Errand>
VDM_INLINE void gemm_tile(GemmA a, const float* b, int64_t b_step, float* c, int64_t c_row, int64_t k,
                          GemmSum products, Errand errand) {
  F32 sum[kRows][kColumnVectors];
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) {
      sum[m][v] = splat(0.0f);
    }
  }
  for (int64_t i = 0; i < products.count; ++i) {
    gemm_add(sum, {a.data + i * products.a_step, a.row, a.step}, b + i * products.b_step, b_step, k, errand);
  }
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) {
      // C comes last: the sums stay small, and so do their rounding errors.
      float* const to = c + m * c_row + v * kLanes;
      store(to, kAccumulate ? load(to) + sum[m][v] : sum[m][v]);
    }
  }
}

// As gemm_tile, of 1 to kGemmRows rows.
template <int kColumnVectors, bool kAccumulate, int kRows = kGemmRows, typename Errand>
VDM_INLINE void gemm_tile_of(int64_t rows, GemmA a, const float* b, int64_t b_step, float* c, int64_t c_row,
                             int64_t k, GemmSum products, Errand errand) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return gemm_tile_of<kColumnVectors, kAccumulate, kRows - 1>(rows, a, b, b_step, c, c_row, k, products,
                                                                  errand);
    }
  }
  gemm_tile<kRows, kColumnVectors, kAccumulate>(a, b, b_step, c, c_row, k, products, errand);
}

// Rows of the next tile: as many as fit, but no small rest after it (16 rows are 8 and 8, not 12 and 4).
VDM_INLINE int64_t gemm_rows(int64_t rows) {
  if (rows <= kGemmRows) return rows;
  return rows < kGemmRows + kGemmRows / 2 ? (rows + 1) / 2 : kGemmRows;
}

template <int kColumnVectors, bool kAccumulate, typename Errand>
VDM_INLINE void gemm_columns(int64_t rows, GemmA a, const float* b, int64_t b_step, float* c, int64_t c_row,
                             int64_t k, GemmSum products, Errand errand) {
  while (rows > 0) {
    const int64_t count = gemm_rows(rows);
    gemm_tile_of<kColumnVectors, kAccumulate>(count, a, b, b_step, c, c_row, k, products, errand);
    a.data += count * a.row;
    c += count * c_row;
    rows -= count;
  }
}

// C (+)= A B, or a sum of such products, of any number of rows, and kPanel or kHalfPanel columns.
template <bool kAccumulate, typename Errand>
VDM_INLINE void gemm_panel(int64_t rows, int columns, GemmA a, const float* b, int64_t b_step, float* c,
                           int64_t c_row, int64_t k, GemmSum products, Errand errand) {
#if defined(VDM_ISA_AVX512)
  if (columns == kHalfPanel) {
    return gemm_columns<1, kAccumulate>(rows, a, b, b_step, c, c_row, k, products, errand);
  }
#endif
  for (int n = 0; n < columns; n += 2 * kLanes) {
    gemm_columns<2, kAccumulate>(rows, a, b + n, b_step, c + n, c_row, k, products, errand);
  }
}
template <bool kAccumulate>
VDM_INLINE void gemm_panel(int64_t rows, int columns, GemmA a, const float* b, int64_t b_step, float* c,
                           int64_t c_row, int64_t k, GemmSum products = kOneProduct) {
  gemm_panel<kAccumulate>(rows, columns, a, b, b_step, c, c_row, k, products, NoErrand());
}

// A tile of gemm_parts. Out of line: among others in one function, GCC keeps some sums in memory. No argument
// is a structure by value: GCC copies those through memory, with loads wider than the stores just before,
// which wait until all that was stored earlier, of the tile before, has reached the cache.
template <int kRows, int kColumnVectors>
static __attribute__((noinline)) void gemm_parts_tile(const float* a, int64_t a_row, const float* b,
                                                      int64_t b_step, float* c, int64_t c_row, int64_t k,
                                                      int64_t parts, GemmAhead& ahead) {
  F32 sum[kRows][kColumnVectors];
  alignas(64) float before[kRows][kColumnVectors * kLanes];
  GemmAhead fetching = ahead;
  for (int64_t part = 0;; ++part) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < kColumnVectors; ++v) sum[m][v] = splat(0.0f);
    }
    const int64_t count = k / (parts - part);
    gemm_add(sum, {a, a_row, 1}, b, b_step, count, GemmFetch{&fetching});
    a += count;
    b += count * b_step;
    k -= count;
    if (part > 0) {
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (int v = 0; v < kColumnVectors; ++v) sum[m][v] = load(before[m] + v * kLanes) + sum[m][v];
      }
    }
    if (part + 1 == parts) break;
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < kColumnVectors; ++v) store(before[m] + v * kLanes, sum[m][v]);
    }
  }
  ahead = fetching;
#pragma GCC unroll 16
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kColumnVectors; ++v) store(c + m * c_row + v * kLanes, sum[m][v]);
  }
}

template <int kColumnVectors, int kRows = kGemmRows>
VDM_INLINE void gemm_parts_of(int64_t rows, const float* a, int64_t a_row, const float* b, int64_t b_step,
                              float* c, int64_t c_row, int64_t k, int64_t parts, GemmAhead& ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return gemm_parts_of<kColumnVectors, kRows - 1>(rows, a, a_row, b, b_step, c, c_row, k, parts, ahead);
    }
  }
  gemm_parts_tile<kRows, kColumnVectors>(a, a_row, b, b_step, c, c_row, k, parts, ahead);
}

// C = A B, of any number of rows and kPanel or kHalfPanel columns, where k is consecutive in A. The sums over
// k are made of `parts` sums: the rounding errors of one long sum would be larger.
VDM_INLINE void gemm_parts(int64_t rows, int columns, const float* a, int64_t a_row, const float* b, float* c,
                           int64_t c_row, int64_t k, int64_t parts, GemmAhead& ahead) {
  for (int64_t row = 0, count; row < rows; row += count) {
    count = gemm_rows(rows - row);
    const float* const a_tile = a + row * a_row;
    float* const c_tile = c + row * c_row;
#if defined(VDM_ISA_AVX512)
    if (columns == kHalfPanel) {
      gemm_parts_of<1>(count, a_tile, a_row, b, columns, c_tile, c_row, k, parts, ahead);
      continue;
    }
#endif
    for (int n = 0; n < columns; n += 2 * kLanes)
      gemm_parts_of<2>(count, a_tile, a_row, b + n, columns, c_tile + n, c_row, k, parts, ahead);
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
