#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/buffer.h"
#include "common/cache.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "group_norm_silu_conv/taps.h"
#include "group_norm_silu_conv/taps_simd.h"

namespace vdm {
namespace {

// What a task reads at once: it, a panel of the weight and the output share the L2 cache.
constexpr int64_t kReadBytes = 256 << 10;
// For the gradient of the weight, which is read and written for every task, more.
constexpr int64_t kGradientReadBytes = 1 << 20;
// For that of a pointwise convolution, whose input is copied: what is copied at once, and how many pixels.
constexpr int64_t kPackedBytes = 512 << 10;
constexpr int64_t kPackedPixels = 128;
// Its partial sums: all of them together, how many there are at most, and of how many pixels at least.
constexpr int64_t kPartialBytes = 16 << 20;
constexpr int64_t kMaxParts = 16;
constexpr int64_t kPartPixels = 1024;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The axis of the gradient: what a tap reads becomes what it writes.
TapAxis transpose(const TapAxis& axis) {
  struct Tap {
    int read;
    uint32_t positions;
  };
  TapAxis result = {axis.out_step, axis.in_step, {}, {}, {}};
  for (int phase = 0; phase < result.out_step; ++phase) {
    // Input in_step j + phase is read by tap d of phase p where in_step divides phase - d, for output
    // out_step (j + (phase - d) / in_step) + p.
    std::vector<Tap> found;
    for (int p = 0; p < axis.out_step; ++p)
      for (int t = 0; t < axis.taps[p]; ++t) {
        const int distance = phase - (axis.first[p] + t);
        if (distance % axis.in_step == 0)
          found.push_back({distance / axis.in_step * axis.out_step + p, axis.positions[p][t]});
      }
    std::sort(found.begin(), found.end(), [](const Tap& a, const Tap& b) { return a.read < b.read; });
    result.taps[phase] = static_cast<int>(found.size());
    if (!found.empty()) result.first[phase] = found[0].read;
    for (size_t t = 0; t < found.size(); ++t) result.positions[phase][t] = found[t].positions;
  }
  return result;
}

}  // namespace

TapAxis TapsKernel::axis() const {
  TapAxis axis;
  if (upsample && size == 3) {
    axis = {1, 2, {-1, 0}, {2, 2}, {{0b001, 0b110}, {0b011, 0b100}}};
  } else if (upsample) {
    axis = {1, 2, {0, 0}, {1, 1}, {{1}, {1}}};
  } else if (size == 3) {
    axis = {stride, 1, {-1, 0}, {3, 0}, {{0b001, 0b010, 0b100}, {}}};
  } else {
    axis = {stride, 1, {0, 0}, {1, 0}, {{1}, {}}};
  }
  return transposed ? transpose(axis) : axis;
}

int64_t taps_packed_size(const TapsKernel& kernel) {
  return ceil_div(kernel.writes(), kTapsPanel) * kernel.axis().total() * kernel.reads() * kTapsPanel;
}

namespace {

// How a weight and its packed form correspond, in blocks of kBlock read channels of one panel: few enough to
// stay in the L1 cache between the two steps, position by position of the kernel and tap by tap.
class Packing {
 public:
  Packing(const TapsKernel& kernel, const std::array<int64_t, 4>& strides)
      : writes_(kernel.writes()),
        reads_(kernel.reads()),
        write_stride_(strides[kernel.transposed ? 1 : 0]),
        read_stride_(strides[kernel.transposed ? 0 : 1]) {
    for (int y = 0; y < kernel.size; ++y)
      for (int x = 0; x < kernel.size; ++x) offsets_.push_back(y * strides[2] + x * strides[3]);
    const TapAxis axis = kernel.axis();
    taps_.resize(static_cast<size_t>(axis.total()));
    for (int phase = 0; phase < axis.out_step * axis.out_step; ++phase) {
      const int phase_y = phase / axis.out_step, phase_x = phase % axis.out_step;
      auto tap = taps_.begin() + axis.first_tap(phase_y, phase_x);
      for (int ty = 0; ty < axis.taps[phase_y]; ++ty)
        for (int tx = 0; tx < axis.taps[phase_x]; ++tx, ++tap)
          for (int y = 0; y < kernel.size; ++y)
            for (int x = 0; x < kernel.size; ++x)
              if ((axis.positions[phase_y][ty] >> y & 1) && (axis.positions[phase_x][tx] >> x & 1))
                tap->push_back(y * kernel.size + x);
    }
  }

  void pack(const float* weight, float* packed) const {
    for_each_block([&](const Block& block) {
      float positions[9][kBlock * kTapsPanel];
      std::fill_n(positions[0], offsets_.size() * kBlock * kTapsPanel, 0.0f);
      for_each_weight(
          block, [&](int64_t i, int position, int64_t offset) { positions[position][i] = weight[offset]; });
      for (size_t tap = 0; tap < taps_.size(); ++tap) {
        float* const out = packed + packed_offset(block, tap);
        std::copy_n(positions[taps_[tap][0]], block.reads * kTapsPanel, out);
        for (size_t n = 1; n < taps_[tap].size(); ++n) add(block, positions[taps_[tap][n]], out);
      }
    });
  }

  // The gradient of the weight from that of its packed form.
  void unpack(const float* packed, float* weight) const {
    for_each_block([&](const Block& block) {
      float positions[9][kBlock * kTapsPanel];
      std::fill_n(positions[0], offsets_.size() * kBlock * kTapsPanel, 0.0f);
      for (size_t tap = 0; tap < taps_.size(); ++tap)
        for (const int position : taps_[tap])
          add(block, packed + packed_offset(block, tap), positions[position]);
      for_each_weight(
          block, [&](int64_t i, int position, int64_t offset) { weight[offset] = positions[position][i]; });
    });
  }

 private:
  static constexpr int64_t kBlock = 16;

  struct Block {
    int64_t panel, first_read, reads;
  };

  template <typename Body>
  void for_each_block(const Body& body) const {
    const int64_t blocks = ceil_div(reads_, kBlock);
    parallel_for(ceil_div(writes_, kTapsPanel) * blocks, 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first_read = i % blocks * kBlock;
        body(Block{i / blocks, first_read, std::min(kBlock, reads_ - first_read)});
      }
    });
  }

  // Calls body(index in the block, position of the kernel, offset in the weight).
  template <typename Body>
  void for_each_weight(const Block& block, const Body& body) const {
    const int64_t first_write = block.panel * kTapsPanel;
    for (size_t p = 0; p < offsets_.size(); ++p)
      for (int64_t write = 0; write < std::min(kTapsPanel, writes_ - first_write); ++write) {
        const int64_t offset =
            (first_write + write) * write_stride_ + block.first_read * read_stride_ + offsets_[p];
        for (int64_t read = 0; read < block.reads; ++read)
          body(read * kTapsPanel + write, static_cast<int>(p), offset + read * read_stride_);
      }
  }

  int64_t packed_offset(const Block& block, size_t tap) const {
    return ((block.panel * static_cast<int64_t>(taps_.size()) + static_cast<int64_t>(tap)) * reads_ +
            block.first_read) *
           kTapsPanel;
  }

  static void add(const Block& block, const float* a, float* sum) {
    for (int64_t i = 0; i < block.reads * kTapsPanel; ++i) sum[i] += a[i];
  }

  int64_t writes_, reads_;
  int64_t write_stride_, read_stride_;
  std::vector<int64_t> offsets_;        // of the kernel's positions
  std::vector<std::vector<int>> taps_;  // the positions in each
};

void combine_statistics(const TapsPlan& plan, const ConvMoments* moments, Statistic* statistics) {
  const int64_t channels = plan.out_channels, images = plan.input.images;
  parallel_for(images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image)
      for (int64_t c = 0; c < channels; ++c) {
        double count = 0.0, mean = 0.0, m2 = 0.0;
        for (int64_t part = 0; part < plan.segments * plan.phases(); ++part) {
          const int phase = static_cast<int>(part % plan.phases()), step = plan.axis.out_step;
          const int64_t pixels = plan.rows(part / plan.phases(), phase / step) * plan.columns(phase % step);
          if (pixels <= 0) continue;
          const ConvMoments& other = moments[(image * plan.segments * plan.phases() + part) * channels + c];
          const double n = static_cast<double>(pixels), deviation = other.mean - mean;
          m2 += other.m2 + deviation * deviation * count * n / (count + n);
          mean += deviation * n / (count + n);
          count += n;
        }
        statistics[2 * (image * channels + c)] = mean;
        statistics[2 * (image * channels + c) + 1] = m2 / count;
      }
  });
}

// The norm as the input's activation, which lives in the buffer that is returned.
Buffer activate(const GroupNorm& norm, ConvInput* input) {
  if (norm.groups == 0) return nullptr;
  const int64_t size = input->images * input->channels;
  Buffer affine = allocate(3 * size);
  fold_group_norm(norm, affine.get(), affine.get() + size, affine.get() + 2 * size);
  input->center = affine.get();
  input->gain = affine.get() + size;
  input->offset = affine.get() + 2 * size;
  return affine;
}

// All pixels as one image: where pixels are independent, its rows can be cut anywhere.
template <typename Video>
void as_one_column(Video* video) {
  video->height *= video->images * video->width;
  video->images = video->width = 1;
}

// What bounds a segment: the bytes that it reads, and its pixels. The number of segments is a multiple of
// `multiple`, where there are that many rows.
struct Cut {
  int64_t read_bytes = kReadBytes, pixels = INT64_MAX, multiple = 1;
};

TapsPlan make_plan(const ConvInput& input, const TapAxis& axis, int64_t out_height, int64_t out_width,
                   int64_t out_channels, const Cut& cut) {
  TapsPlan plan = {input, axis, out_height, out_width, out_channels, 0, 0, 0, 0, false};
  const int64_t rows = ceil_div(out_height, axis.out_step), columns = ceil_div(out_width, axis.out_step);
  const int64_t span = axis.end() - axis.lowest();
  plan.read_columns = (columns - 1) * axis.in_step + span;
  const int64_t row_bytes = std::max<int64_t>(plan.read_columns * input.channels, 1) * int64_t{sizeof(float)};
  const int64_t most = std::min((cut.read_bytes / row_bytes - span) / axis.in_step + 1, cut.pixels / columns);
  plan.segments = ceil_div(ceil_div(rows, std::clamp<int64_t>(most, 1, rows)), cut.multiple) * cut.multiple;
  plan.segment_rows = ceil_div(rows, plan.segments);
  plan.segments = ceil_div(rows, plan.segment_rows);
  plan.read_rows = (plan.segment_rows - 1) * axis.in_step + span;
  const bool inside = axis.lowest() >= 0 && (rows - 1) * axis.in_step + axis.end() <= input.height &&
                      (columns - 1) * axis.in_step + axis.end() <= input.width;
  plan.in_place = input.dtype == DType::kFloat32 && input.center == nullptr && inside &&
                  (input.x2 == nullptr || span == 1);
  return plan;
}

// How many images a task takes of `images` that are to be shared: as much as fits the cache where each is
// less, without leaving threads idle.
int64_t images_per_task(const TapsPlan& plan, int64_t images, int64_t threads, int64_t read_bytes) {
  if (plan.segments > 1) return 1;
  const int64_t size = plan.read_rows * plan.read_columns * std::max<int64_t>(plan.input.channels, 1);
  return std::clamp<int64_t>(read_bytes / (size * int64_t{sizeof(float)}), 1, ceil_div(images, threads));
}

}  // namespace

void taps_pack_cpu(const TapsPackParams& params) {
  Packing(params.kernel, params.strides).pack(params.weight, params.packed);
}

void taps_conv_cpu(const TapsConvParams& params) {
  ConvInput input = params.input;
  ConvOutput output = params.output;
  const int64_t pixels = output.images * output.height * output.width;
  if (pixels * output.channels == 0) return;
  const int64_t read_bytes =
      input.images * input.height * input.width * input.channels * size_of(input.dtype);
  const int64_t bytes = pixels * output.channels * size_of(output.dtype);
  const int64_t weight_bytes = taps_packed_size(params.kernel) * int64_t{sizeof(float)};
  output.stream = exceeds_cache(read_bytes + weight_bytes + (output.residual == nullptr ? 1 : 2) * bytes) &&
                  reinterpret_cast<uintptr_t>(output.y) % 64 == 0;
  const Buffer activation = activate(params.norm, &input);
  const TapAxis axis = params.kernel.axis();
  Cut cut;
  if (axis.is_pointwise() && params.norm.groups == 0 && params.statistics == nullptr) {
    as_one_column(&input);
    as_one_column(&output);
    cut.multiple = max_threads();
  }
  const TapsPlan plan = make_plan(input, axis, output.height, output.width, output.channels, cut);
  std::vector<ConvMoments> moments;
  if (params.statistics != nullptr)
    moments.resize(static_cast<size_t>(input.images * plan.segments * plan.phases() * output.channels));
  const TapsConv conv = {plan, output, params.packed, moments.empty() ? nullptr : moments.data()};

  const int64_t group = images_per_task(plan, input.images, max_threads(), kReadBytes);
  const int64_t groups = ceil_div(input.images, group);
  const int64_t blocks = groups * plan.segments;
  const int64_t splits = std::min(ceil_div(max_threads(), blocks), plan.panels());
  const auto kernel = VDM_SIMD(taps_conv);
  parallel_for(blocks * splits, 1, [&](int64_t begin, int64_t end) {
    float* const memory = scratch(ScratchSlot::kThread, group * plan.read_size());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t split = i % splits, segment = i / splits % plan.segments;
      const int64_t image = i / splits / plan.segments * group;
      kernel(conv,
             {image, std::min(group, input.images - image), segment, plan.panels() * split / splits,
              plan.panels() * (split + 1) / splits},
             memory);
    }
  });
  if (params.statistics != nullptr) combine_statistics(plan, moments.data(), params.statistics);
}

void taps_weight_gradient_cpu(const TapsWeightGradientParams& params) {
  const TapsKernel& kernel = params.kernel;
  ConvInput input = params.input, dy = params.dy;
  const int64_t pixels = dy.images * dy.height * dy.width;
  if (pixels * kernel.out_channels == 0) {
    std::fill_n(params.dweight, kernel.out_channels * kernel.in_channels * kernel.size * kernel.size, 0.0f);
    std::fill_n(params.dbias, kernel.out_channels, 0.0f);
    return;
  }
  const Buffer activation = activate(params.norm, &input);
  const TapAxis axis = kernel.axis();
  if (axis.is_pointwise() && params.norm.groups == 0) {
    as_one_column(&input);
    as_one_column(&dy);
  }
  const Cut cut = axis.is_pointwise() ? Cut{kPackedBytes, kPackedPixels} : Cut{};
  const TapsPlan plan = make_plan(input, axis, dy.height, dy.width, dy.channels, cut);
  const TapsWeightGradient gradient = {plan, dy};

  // Partial sums of ranges of segments; how many depends on the shapes alone.
  const int64_t segments = input.images * plan.segments, size = taps_packed_size(kernel);
  const int64_t most = std::min({segments, kMaxParts, pixels / kPartPixels,
                                 kPartialBytes / (std::max<int64_t>(size, 1) * int64_t{sizeof(float)})});
  int64_t parts = 1;
  while (2 * parts <= most) parts *= 2;
  const int64_t panels = plan.panels(), part_size = size + panels * kTapsPanel;
  float* const partial = scratch(ScratchSlot::kShared, parts * part_size);

  const int64_t group = images_per_task(plan, segments, parts, kGradientReadBytes);
  const int64_t splits = std::min(ceil_div(max_threads(), parts), panels);
  const auto run = VDM_SIMD(taps_weight_gradient);
  parallel_for(parts * splits, 1, [&](int64_t begin, int64_t end) {
    float* const memory = scratch(ScratchSlot::kThread,
                                  group * (plan.read_size() + gradient.dy_size()) + gradient.packed_size());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i / splits, split = i % splits;
      const int64_t panel = panels * split / splits, last_panel = panels * (split + 1) / splits;
      float *const dpacked = partial + part * part_size, *const dbias = dpacked + size;
      std::fill(dpacked + size / panels * panel, dpacked + size / panels * last_panel, 0.0f);
      std::fill(dbias + kTapsPanel * panel, dbias + kTapsPanel * last_panel, 0.0f);
      const int64_t last = segments * (part + 1) / parts;
      for (int64_t segment = segments * part / parts; segment < last;) {
        const int64_t images = std::min(group, last - segment);
        run(gradient, {segment / plan.segments, images, segment % plan.segments, panel, last_panel}, dpacked,
            dbias, memory);
        segment += images;
      }
    }
  });

  parallel_for(part_size, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t i = begin; i < end; ++i) partial[i] += partial[part * part_size + i];
  });
  Packing(kernel, params.strides).unpack(partial, params.dweight);
  std::copy_n(partial + size, kernel.out_channels, params.dbias);
}

}  // namespace vdm
