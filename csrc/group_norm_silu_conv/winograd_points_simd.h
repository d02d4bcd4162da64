// The one-dimensional transforms of Winograd's minimal filtering F(m, 3) (Lavin and Gray 2016, arXiv
// 1509.09308), for m = 4 and m = 2. A polynomial product of degree m + 1 is found from its values at m + 1
// points x and its leading coefficient (x = infinity):
//
//     A[x] = (1, x, ..., x^(m-1))                     outputs from products, transposed
//     G[x] = (1, x, x^2) / prod over y != x (x - y)   weights
//     B[x] = coefficients of prod over y != x (X - y) inputs
//
// Each transform is applied to rows and then to columns. Points come in pairs +-x, whose even and odd parts
// are computed once for both.
#pragma once

#include "common/simd.h"

namespace vdm {
namespace VDM_ISA {

// Weights are transformed once and used often: in float64, they are rounded once. GCC's and Clang's portable
// vectors, of kLanes.
typedef double F64 __attribute__((vector_size(8 * kLanes)));
typedef float F32Portable __attribute__((vector_size(4 * kLanes)));

// F(4, 3) with the points 0, +-3/4, +-3/2 and infinity. These make rounding errors 4 times smaller than 0,
// +-1, +-2 (Barabasz et al. 2018, arXiv 1803.10986, say why points near 1 do), and all factors but those of
// G are exact.
struct Winograd4 {
  static constexpr int kOutput = 4, kPoints = 6;
  static constexpr float a = 0.75f, b = 1.5f, a2 = a * a, b2 = b * b, a3 = a * a2, b3 = b * b2;
  static constexpr double kG0 = 64.0 / 81, kGa = -128.0 / 243, kGb = 32.0 / 243;

  struct Input {
    static constexpr int kFrom = 6, kTo = 6;
    static VDM_MEMBER void apply(const F32* d, F32* v) {
      const F32 even_a = fma(splat(-b2), d[2], d[4]), odd_a = fma(splat(-b2), d[1], d[3]);
      const F32 even_b = fma(splat(-a2), d[2], d[4]), odd_b = fma(splat(-a2), d[1], d[3]);
      v[0] = fma(splat(a2 * b2), d[0], fma(splat(-a2 - b2), d[2], d[4]));
      v[1] = fma(splat(a), odd_a, even_a);
      v[2] = fma(splat(-a), odd_a, even_a);
      v[3] = fma(splat(b), odd_b, even_b);
      v[4] = fma(splat(-b), odd_b, even_b);
      v[5] = fma(splat(a2 * b2), d[1], fma(splat(-a2 - b2), d[3], d[5]));
    }
  };

  struct Output {
    static constexpr int kFrom = 6, kTo = 4;
    static VDM_MEMBER void apply(const F32* m, F32* y) {
      const F32 even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
      y[0] = m[0] + (even_a + even_b);
      y[1] = fma(splat(a), odd_a, splat(b) * odd_b);
      y[2] = fma(splat(a2), even_a, splat(b2) * even_b);
      y[3] = fma(splat(a3), odd_a, fma(splat(b3), odd_b, m[5]));
    }
  };

  // The transpose of Output.
  struct OutputGradient {
    static constexpr int kFrom = 4, kTo = 6;
    static VDM_MEMBER void apply(const F32* y, F32* d) {
      const F32 even_a = fma(splat(a2), y[2], y[0]), odd_a = fma(splat(a2), y[3], y[1]);
      const F32 even_b = fma(splat(b2), y[2], y[0]), odd_b = fma(splat(b2), y[3], y[1]);
      d[0] = y[0];
      d[1] = fma(splat(a), odd_a, even_a);
      d[2] = fma(splat(-a), odd_a, even_a);
      d[3] = fma(splat(b), odd_b, even_b);
      d[4] = fma(splat(-b), odd_b, even_b);
      d[5] = y[3];
    }
  };

  struct Weights {
    static constexpr int kFrom = 3, kTo = 6;
    static VDM_MEMBER void apply(const F64* g, F64* u) {
      const F64 even_a = g[0] + double{a2} * g[2], odd_a = double{a} * g[1];
      const F64 even_b = g[0] + double{b2} * g[2], odd_b = double{b} * g[1];
      u[0] = kG0 * g[0];
      u[1] = kGa * (even_a + odd_a);
      u[2] = kGa * (even_a - odd_a);
      u[3] = kGb * (even_b + odd_b);
      u[4] = kGb * (even_b - odd_b);
      u[5] = g[2];
    }
  };

  // The transpose of Weights.
  struct WeightsGradient {
    static constexpr int kFrom = 6, kTo = 3;
    static VDM_MEMBER void apply(const F32* u, F32* g) {
      const F32 even_a = splat(static_cast<float>(kGa)) * (u[1] + u[2]),
                odd_a = splat(static_cast<float>(kGa)) * (u[1] - u[2]);
      const F32 even_b = splat(static_cast<float>(kGb)) * (u[3] + u[4]),
                odd_b = splat(static_cast<float>(kGb)) * (u[3] - u[4]);
      g[0] = fma(splat(static_cast<float>(kG0)), u[0], even_a + even_b);
      g[1] = fma(splat(a), odd_a, splat(b) * odd_b);
      g[2] = fma(splat(a2), even_a, fma(splat(b2), even_b, u[5]));
    }
  };
};

// F(2, 3) with the points 0, +-1 and infinity: nearly as exact as a sum of products.
struct Winograd2 {
  static constexpr int kOutput = 2, kPoints = 4;

  struct Input {
    static constexpr int kFrom = 4, kTo = 4;
    static VDM_MEMBER void apply(const F32* d, F32* v) {
      v[0] = d[0] - d[2];
      v[1] = d[1] + d[2];
      v[2] = d[2] - d[1];
      v[3] = d[3] - d[1];
    }
  };

  struct Output {
    static constexpr int kFrom = 4, kTo = 2;
    static VDM_MEMBER void apply(const F32* m, F32* y) {
      y[0] = m[0] + (m[1] + m[2]);
      y[1] = (m[1] - m[2]) + m[3];
    }
  };

  struct OutputGradient {
    static constexpr int kFrom = 2, kTo = 4;
    static VDM_MEMBER void apply(const F32* y, F32* d) {
      d[0] = y[0];
      d[1] = y[0] + y[1];
      d[2] = y[0] - y[1];
      d[3] = y[1];
    }
  };

  struct Weights {
    static constexpr int kFrom = 3, kTo = 4;
    static VDM_MEMBER void apply(const F64* g, F64* u) {
      const F64 even = 0.5 * (g[0] + g[2]), odd = 0.5 * g[1];
      u[0] = g[0];
      u[1] = even + odd;
      u[2] = even - odd;
      u[3] = g[2];
    }
  };

  struct WeightsGradient {
    static constexpr int kFrom = 4, kTo = 3;
    static VDM_MEMBER void apply(const F32* u, F32* g) {
      const F32 even = splat(0.5f) * (u[1] + u[2]), odd = splat(0.5f) * (u[1] - u[2]);
      g[0] = u[0] + even;
      g[1] = odd;
      g[2] = even + u[3];
    }
  };
};

// F(4, 3) of an input enlarged by two, l0 l1 l1 l2 l2 l3, in 5 products. Outputs of even and of odd position
// are convolutions of l with two kernels of 2,
//
//     E(X) = g0 + (g1 + g2) X        O(X) = (g0 + g1) X + g2 X^2
//
// of two outputs each, from 4 values of l and so with 4 points, those of F(2, 3). O(0) = 0, E is 0 at
// infinity and E(1) = O(1): only -1 needs a product for each, of the same value (WinogradTiles::input_of).
// Errors are those of F(2, 3), too.
struct WinogradUpsampled {
  static constexpr int kPoints = 5;

  using Input = Winograd2::Input;

  struct Output {
    static constexpr int kFrom = 5, kTo = 4;
    static VDM_MEMBER void apply(const F32* m, F32* y) {
      y[0] = m[0] + (m[1] + m[2]);
      y[1] = m[1] + m[3];
      y[2] = m[1] - m[2];
      y[3] = (m[1] - m[3]) + m[4];
    }
  };

  // The transpose of Output.
  struct OutputGradient {
    static constexpr int kFrom = 4, kTo = 5;
    static VDM_MEMBER void apply(const F32* y, F32* d) {
      d[0] = y[0];
      d[1] = (y[0] + y[2]) + (y[1] + y[3]);
      d[2] = y[0] - y[2];
      d[3] = y[1] - y[3];
      d[4] = y[3];
    }
  };

  struct Weights {
    static constexpr int kFrom = 3, kTo = 5;
    static VDM_MEMBER void apply(const F64* g, F64* u) {
      u[0] = g[0];
      u[1] = 0.5 * (g[0] + g[1] + g[2]);
      u[2] = 0.5 * (g[0] - g[1] - g[2]);
      u[3] = 0.5 * (g[2] - g[1] - g[0]);
      u[4] = g[2];
    }
  };

  // The transpose of Weights.
  struct WeightsGradient {
    static constexpr int kFrom = 5, kTo = 3;
    static VDM_MEMBER void apply(const F32* u, F32* g) {
      const F32 sum = splat(0.5f) * (u[2] + u[3]), difference = splat(0.5f) * (u[2] - u[3]);
      const F32 one = splat(0.5f) * u[1];
      g[0] = u[0] + (one + difference);
      g[1] = one - sum;
      g[2] = (one - difference) + u[4];
    }
  };
};

// The gradient of such an input: of the 4 outputs that F(4, 3) has, the sums of each two neighbours. Each is
// a sum of two convolutions with kernels of 2, one of the even inputs, one of the odd; F(2, 2) takes 3
// products for two outputs of either, with the points 0, 1 and infinity, and at 1 both kernels are g0 + g1 +
// g2.
struct WinogradPooled {
  static constexpr int kPoints = 5;

  struct Input {
    static constexpr int kFrom = 6, kTo = 5;
    static VDM_MEMBER void apply(const F32* d, F32* v) {
      v[0] = d[0] - d[2];
      v[1] = d[1] - d[3];
      v[2] = d[2] + d[3];
      v[3] = d[4] - d[2];
      v[4] = d[5] - d[3];
    }
  };

  struct Output {
    static constexpr int kFrom = 5, kTo = 2;
    static VDM_MEMBER void apply(const F32* m, F32* y) {
      y[0] = (m[0] + m[1]) + m[2];
      y[1] = m[2] + (m[3] + m[4]);
    }
  };

  struct Weights {
    static constexpr int kFrom = 3, kTo = 5;
    static VDM_MEMBER void apply(const F64* g, F64* u) {
      u[0] = g[0];
      u[1] = g[0] + g[1];
      u[2] = g[0] + g[1] + g[2];
      u[3] = g[1] + g[2];
      u[4] = g[2];
    }
  };
};

// A transform of the rows and then of the columns of a square of vectors: from(i, row) loads row i,
// to(j, column) takes column j.
template <typename Transform, typename Vector = F32, typename From, typename To>
VDM_INLINE void transform_square(const From& from, const To& to) {
  constexpr int kFrom = Transform::kFrom, kTo = Transform::kTo;
  Vector half[kFrom][kTo];
#pragma GCC unroll 6
  for (int i = 0; i < kFrom; ++i) {
    Vector row[kFrom];
    from(i, row);
    Transform::apply(row, half[i]);
  }
#pragma GCC unroll 6
  for (int j = 0; j < kTo; ++j) {
    Vector column[kFrom], transformed[kTo];
#pragma GCC unroll 6
    for (int i = 0; i < kFrom; ++i) column[i] = half[i][j];
    Transform::apply(column, transformed);
    to(j, transformed);
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
