// The forward pass reads x and writes a once. The backward pass reads da and x twice, first for the sums that
// the gradient of the statistics needs, and computes the activation again instead of storing anything.
//
// Pixels are taken in the order of memory, kRows at a time, so that a channel's values are loaded once for
// kRows independent vectors: about 25 operations each in one dependent chain (activation_simd.h). What the
// next kRows pixels need is prefetched: the processor's own prefetcher stops at pages, and is late for what
// is in the L3 cache.
#include "group_norm_silu/group_norm_silu_simd.h"

#include <type_traits>

#include "common/activation_simd.h"
#include "common/convert_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

constexpr int kRows = 8;

// Calls body(pixel, rows, c, lanes) for every vector of channels of every `rows` pixels, a constant: kRows
// or 1.
template <typename Body>
VDM_INLINE void each_vector(const NormedPixels& p, const Body& body) {
  const int64_t channels = p.channels, end = p.end;
  const int64_t whole = channels / kLanes * kLanes;
  const int rest = static_cast<int>(channels - whole);
  const auto each_of_rows = [&](int64_t pixel, auto rows) VDM_LAMBDA {
    for (int64_t c = 0; c < whole; c += kLanes) body(pixel, rows, c, kLanes);
    if (rest != 0) body(pixel, rows, whole, rest);
  };
  int64_t pixel = p.begin;
  for (; pixel + kRows <= end; pixel += kRows) each_of_rows(pixel, std::integral_constant<int, kRows>());
  for (; pixel < end; ++pixel) each_of_rows(pixel, std::integral_constant<int, 1>());
}

VDM_INLINE F32 channels_at(const float* values, int64_t c, int lanes) {
  return load_partial(values, DType::kFloat32, c, lanes);
}

// x - center and u of one pixel's channels.
struct Normed {
  F32 x, u;
};

// Reads the input at `lanes` channels from c on.
class Reader {
 public:
  VDM_MEMBER Reader(const NormedPixels& p, int64_t c, int lanes)
      : p_(p),
        c_(c),
        lanes_(lanes),
        center_(channels_at(p.center, c, lanes)),
        gain_(channels_at(p.gain, c, lanes)),
        offset_(channels_at(p.offset, c, lanes)) {}

  VDM_MEMBER int64_t index(int64_t pixel) const { return pixel * p_.channels + c_; }
  VDM_MEMBER F32 gain() const { return gain_; }
  VDM_MEMBER Normed read(int64_t pixel) const {
    prefetch(p_.x, p_.dtype, index(pixel + kRows));
    const F32 x = load_partial(p_.x, p_.dtype, index(pixel), lanes_) - center_;
    return {x, fma(x, gain_, offset_)};
  }

 private:
  const NormedPixels& p_;
  int64_t c_;
  int lanes_;
  F32 center_, gain_, offset_;
};

// x - center and dz of some pixels' channels.
template <int kCount>
VDM_INLINE void read_gradients(const Reader& reader, const ActivationGradient& g, int64_t pixel, int64_t c,
                               int lanes, F32 (&x)[kCount], F32 (&dz)[kCount]) {
  each_of<kCount>([&](int row) VDM_LAMBDA {
    const Normed normed = reader.read(pixel + row);
    x[row] = normed.x;
    dz[row] = normed.u;
  });
  const auto gradient = [&](int row) VDM_LAMBDA {
    const int64_t at = (pixel + row) * g.channels + g.first_channel + c;
    prefetch(g.data, g.dtype, at + kRows * g.channels);
    return load_partial(g.data, g.dtype, at, lanes);
  };
  if (g.of_u) {
    each_of<kCount>([&](int row) VDM_LAMBDA { dz[row] = gradient(row); });
  } else {
    silu_derivative(dz);
    each_of<kCount>([&](int row) VDM_LAMBDA { dz[row] = dz[row] * gradient(row); });
  }
}

// Calls body with copies whose types, and of which the gradient is, are constants; the rare pairs of
// different types share one.
template <typename Body>
VDM_INLINE void with_constants(NormedPixels p, ActivationGradient gradient, const Body& body) {
  if (p.dtype != gradient.dtype) {
    body(p, gradient);
    return;
  }
  with_constant(p.dtype, [=, &body](DType dtype) VDM_LAMBDA {
    NormedPixels typed = p;
    ActivationGradient typed_gradient = gradient;
    typed.dtype = typed_gradient.dtype = dtype;
    if (gradient.of_u) {
      typed_gradient.of_u = true;
      body(typed, typed_gradient);
    } else {
      typed_gradient.of_u = false;
      body(typed, typed_gradient);
    }
  });
}

}  // namespace

void group_norm_silu(const NormedPixels& pixels, const PixelOutput& a) {
  with_constant(pixels.dtype, [=](DType dtype) VDM_LAMBDA {
    NormedPixels p = pixels;
    p.dtype = dtype;
    each_vector(p, [=](int64_t pixel, auto rows, int64_t c, int lanes) VDM_LAMBDA {
      const Reader reader(p, c, lanes);
      F32 u[rows];
      each_of<rows>([&](int row) VDM_LAMBDA { u[row] = reader.read(pixel + row).u; });
      silu(u);
      each_of<rows>([&](int row) VDM_LAMBDA {
        store_partial(a.data, p.dtype, reader.index(pixel + row), u[row], lanes, a.stream);
      });
    });
  });
  if (a.stream) stream_fence();
}

void group_norm_silu_bwd_sums(const NormedPixels& pixels, const ActivationGradient& gradient, float* dz_sum,
                              float* dz_x_sum) {
  for (int64_t c = 0; c < pixels.channels; c += kLanes) {
    store(dz_sum + c, splat(0.0f));
    store(dz_x_sum + c, splat(0.0f));
  }
  with_constants(pixels, gradient, [=](const NormedPixels& p, const ActivationGradient& g) VDM_LAMBDA {
    each_vector(p, [=](int64_t pixel, auto rows, int64_t c, int lanes) VDM_LAMBDA {
      const Reader reader(p, c, lanes);
      F32 x[rows], dz[rows], sum = splat(0.0f), x_sum = sum;
      read_gradients(reader, g, pixel, c, lanes, x, dz);
      each_of<rows>([&](int row) VDM_LAMBDA {
        sum = sum + dz[row];
        x_sum = fma(dz[row], x[row], x_sum);
      });
      store(dz_sum + c, load(dz_sum + c) + sum);
      store(dz_x_sum + c, load(dz_x_sum + c) + x_sum);
    });
  });
}

void group_norm_silu_bwd_dx(const NormedPixels& pixels, const ActivationGradient& gradient,
                            const float* slope, const float* constant, const PixelOutput& dx) {
  with_constants(pixels, gradient, [=](const NormedPixels& p, const ActivationGradient& g) VDM_LAMBDA {
    each_vector(p, [=](int64_t pixel, auto rows, int64_t c, int lanes) VDM_LAMBDA {
      const Reader reader(p, c, lanes);
      const F32 slopes = channels_at(slope, c, lanes), constants = channels_at(constant, c, lanes);
      F32 x[rows], dz[rows];
      read_gradients(reader, g, pixel, c, lanes, x, dz);
      each_of<rows>([&](int row) VDM_LAMBDA {
        const F32 out = fma(reader.gain(), dz[row], fma(slopes, x[row], constants));
        store_partial(dx.data, p.dtype, reader.index(pixel + row), out, lanes, dx.stream);
      });
    });
  });
  if (dx.stream) stream_fence();
}

}  // namespace VDM_ISA
}  // namespace vdm
