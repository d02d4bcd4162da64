#include <algorithm>
#include <cassert>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "channel_statistics/channel_statistics.h"
#include "common/cache.h"
#include "common/fingerprint.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "group_norm_silu_conv/winograd.h"
#include "group_norm_silu_conv/winograd_simd.h"

namespace vdm {
namespace {

constexpr int64_t kPanel = 32, kVector = 16, kLine = 16;  // output channels, channels, floats

// Tiles of a block; the most where v of them, with a panel of weights and of products, fits an L2 cache of 1
// MB. With fewer tiles, the weights would be read more often from L3. Blocks are powers of two, as images
// mostly are: then threads have the same number of them.
constexpr int64_t kBlockFloats = 136 << 10, kFewestTiles = kMostTiles / 2;
// Transformed weights beyond this, where they are not given, are made by the threads that need them, each
// panel anew for a group of tiles whose v takes so much; it is transformed in parts of so many tiles.
constexpr int64_t kMadeWeights = 4 << 20, kGroupFloats = 4 << 20, kGroupPart = 16;
// v and d of a group of tiles, and dU, where each has its share of the L3 cache.
constexpr int64_t kGradientFloats = 3 << 20, kRoundFloats = 2 << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Output channels as panels see them: the last panel may be half as wide.
int64_t panel_channels(int64_t out_channels) { return round_up(out_channels, kPanel / 2); }
// Floats of a panel of transformed weights.
int64_t panel_weights(const WinogradKernel& kernel) {
  return kernel.points() * kernel.points() * (kernel.reads() * kPanel + kMatrixGap);
}
int64_t panel_columns(int64_t out_channels, int64_t panel) {
  return std::min(kPanel, panel_channels(out_channels) - panel * kPanel);
}

WinogradTiles tiles_of(const ConvInput& input, const WinogradKernel& kernel) {
  WinogradTiles tiles{};
  const int size = kernel.tile;
  const int64_t scale = kernel.upsample && !kernel.transposed ? 2 : 1;
  tiles.size = size;
  tiles.points = kernel.points();
  tiles.inputs = scale == 2 ? 4 : tiles.points;
  tiles.step = size / static_cast<int>(scale);
  tiles.overlap = tiles.step + 2;
  tiles.rows = ceil_div(input.height * scale, size);
  tiles.columns = ceil_div(input.width * scale, size);
  tiles.count = input.images * tiles.rows * tiles.columns;
  tiles.strip = std::min<int64_t>(tiles.columns, 64 / size);
  tiles.channels = round_up(input.channels, kVector);
  const int64_t matrices = tiles.points * tiles.points;
  tiles.v_row = tiles.channels + kLine;
  const int64_t tile_floats = tiles.inputs * tiles.inputs * tiles.v_row;
  tiles.block = kMostTiles * tile_floats <= kBlockFloats ? kMostTiles : kFewestTiles;
  tiles.m_row = matrices * kPanel + kLine;
  tiles.v_matrix = tiles.block * tiles.v_row + kLine;
  tiles.pixel_row = (tiles.strip * tiles.step + 2) * tiles.channels + kLine;
  tiles.slots = ceil_div(tiles.rows * tiles.columns, tiles.block) + 1;
  return tiles;
}

// Mean and variance of every channel of one image from its blocks', in the order of the blocks.
void finish_statistics(const WinogradTiles& tiles, int64_t image, int64_t channels, const float* partials,
                       Statistic* statistics) {
  const int64_t per_image = tiles.rows * tiles.columns, padded = panel_channels(channels);
  const int64_t first = image * per_image / tiles.block;
  const int64_t blocks = ((image + 1) * per_image - 1) / tiles.block - first + 1;
  partials += image * tiles.slots * 4 * padded;
  statistics += image * channels * 2;
  std::fill_n(statistics, 2 * channels, 0.0);
  double count = 0.0;
  for (int64_t block = 0; block < blocks; ++block, partials += 4 * padded) {
    const double part = partials[3 * padded], share = part / (count + part), weight = count * share;
    for (int64_t c = 0; c < channels; ++c) {
      const double mean = double{partials[c]} + double{partials[padded + c]};
      const double delta = mean - statistics[2 * c];
      statistics[2 * c] += delta * share;
      statistics[2 * c + 1] += double{partials[2 * padded + c]} + delta * delta * weight;
    }
    count += part;
  }
  for (int64_t c = 0; c < channels; ++c) statistics[2 * c + 1] /= count;
}

// Sums over the pixels of every channel of one image from its blocks'.
void finish_sums(const WinogradTiles& tiles, int64_t image, int64_t channels, const float* partials,
                 Statistic* sums) {
  const int64_t per_image = tiles.rows * tiles.columns, padded = panel_channels(channels);
  const int64_t first = image * per_image / tiles.block;
  const int64_t blocks = ((image + 1) * per_image - 1) / tiles.block - first + 1;
  partials += image * tiles.slots * 4 * padded;
  sums += image * channels * 2;
  std::fill_n(sums, 2 * channels, 0.0);
  for (int64_t block = 0; block < blocks; ++block, partials += 4 * padded)
    for (int64_t c = 0; c < channels; ++c) {
      sums[2 * c] += partials[c];
      sums[2 * c + 1] += partials[padded + c];
    }
}

// The input with the norm as its activation, which lives in memory of activation_size() floats.
int64_t activation_size(const ConvInput& input, const GroupNorm& norm) {
  return norm.groups == 0 ? 0 : round_up(3 * input.images * input.channels, kLine);
}
ConvInput activated(ConvInput input, const GroupNorm& norm, float* memory) {
  if (norm.groups == 0) return input;
  const int64_t size = input.images * input.channels;
  if (norm.statistics != nullptr) fold_group_norm(norm, memory, memory + size, memory + 2 * size);
  input.center = memory;
  input.gain = memory + size;
  input.offset = memory + 2 * size;
  return input;
}

// Makes the statistics that are not given, and folds the norm, for the images that one thread convolves.
// Between products it adds up blocks of pixels that the last products prefetched, one image ahead.
class NormsAhead {
 public:
  // For `tiles` [begin, end), to memory of activation_size() floats.
  NormsAhead(const ConvInput& input, const GroupNorm& norm, const WinogradTiles& tiles, int64_t begin,
             int64_t end, float* memory)
      : norm_(norm),
        tiles_(tiles),
        first_(begin / per_image()),
        size_(input.images * input.channels),
        memory_(memory),
        statistics_(static_cast<size_t>(2 * input.channels)) {
    const int64_t images = ceil_div(std::min(tiles.count, end), per_image()) - first_;
    const int64_t pixels = input.height * input.width;
    const auto add_input = [&](const void* x, int64_t channels) {
      const char* const from =
          static_cast<const char*>(x) + first_ * pixels * channels * size_of(input.dtype);
      sums_.emplace_back(from, input.dtype, PixelBlocks{images, pixels, channels});
    };
    add_input(input.x, input.channels1);
    if (input.x2 != nullptr) add_input(input.x2, input.channels - input.channels1);
    add(std::min(images, ceil_div(begin + tiles.block, per_image()) - first_) * blocks());
  }

  // How many blocks are added up when tiles before this one have been convolved: at a steady pace, and all
  // that the next tiles need.
  int64_t due(int64_t tile) const {
    const int64_t ahead = tile + tiles_.block - (first_ - 1) * per_image();
    return std::min(sums_[0].blocks().count(), ahead * blocks() / per_image());
  }
  void prefetch(int64_t until, WinogradAhead& ahead) const {
    for (size_t i = 0; i < sums_.size(); ++i) {
      ahead.data[i] = sums_[i].address(next_);
      ahead.lines[i] = (sums_[i].address(until) - ahead.data[i]) / 64;
    }
  }
  void add(int64_t until) {
    for (; next_ < until; ++next_) {
      for (ChannelSums& sums : sums_) sums.add(next_);
      if ((next_ + 1) % blocks() == 0) fold(next_ / blocks());
    }
  }

 private:
  int64_t per_image() const { return tiles_.rows * tiles_.columns; }
  int64_t blocks() const { return sums_[0].blocks().per_image(); }
  void fold(int64_t image) {  // counted from the first
    Statistic* statistics = statistics_.data();
    for (const ChannelSums& sums : sums_) {
      sums.finish(image, statistics);
      statistics += 2 * sums.blocks().channels;
    }
    float* const center = memory_ + (first_ + image) * norm_.channels;
    fold_group_norm(norm_.of_image(first_ + image, statistics_.data()), center, center + size_,
                    center + 2 * size_);
  }

  const GroupNorm& norm_;
  const WinogradTiles& tiles_;
  const int64_t first_, size_;  // image; distance of center, gain and offset
  float* const memory_;
  std::vector<Statistic> statistics_;  // of one image
  std::vector<ChannelSums> sums_;      // of x, and of x2
  int64_t next_ = 0;                   // block of pixels of these images
};

// One thread's pieces of the weight, whose fingerprint is made between products.
class WeightAhead {
 public:
  // For a thread that makes products [begin, end) out of `count`.
  WeightAhead(Fingerprint& weight, int64_t begin, int64_t end, int64_t count)
      : weight_(weight),
        products_(end - begin),
        next_(weight.first_stripe(weight.pieces() * begin / count)),
        end_(weight.first_stripe(weight.pieces() * end / count)) {}
  WeightAhead(const WeightAhead&) = delete;
  WeightAhead& operator=(const WeightAhead&) = delete;
  ~WeightAhead() {
    while (next_ < end_) VDM_SIMD(mix_stripes)(advance(end_));
  }

  // What the next products take with them: an even share of the rest, within one piece.
  FingerprintShare share() {
    return next_ == end_ ? FingerprintShare{}
                         : advance(next_ + ceil_div(end_ - next_, std::max<int64_t>(1, products_--)));
  }

 private:
  FingerprintShare advance(int64_t until) {
    const FingerprintShare share = weight_.share(next_, until);
    next_ += share.stripes;
    return share;
  }

  Fingerprint& weight_;
  int64_t products_, next_, end_;  // still to come; stripes
};

// The panels that one thread computes, one after the other: while the products of one are made, those of the
// one before become output.
class Pipeline {
 public:
  // m: 2 * tiles.block * tiles.m_row floats.
  Pipeline(const WinogradMultiply& conv, const WinogradTiles& tiles, float* m)
      : conv_(conv), tiles_(tiles), m_(m) {}
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  ~Pipeline() {
    if (count_ > 0) VDM_SIMD(winograd_output)(conv_, tiles_, products_[(count_ - 1) % 2]);
  }

  // weights: of the panel. ahead: what the thread reads next.
  void multiply(int64_t block, int64_t panel, const float* weights, const float* v,
                const WinogradAhead& ahead) {
    const int64_t begin = block * tiles_.block, first = panel * kPanel;
    const int64_t columns = panel_columns(conv_.output.channels, panel);
    WinogradProducts& products = products_[count_ % 2];
    products = {begin,   std::min(tiles_.count, begin + tiles_.block),  first, static_cast<int>(columns),
                weights, m_ + count_ % 2 * tiles_.block * tiles_.m_row, ahead};
    VDM_SIMD(winograd_multiply)
    (conv_, tiles_, v, products, count_ == 0 ? nullptr : &products_[(count_ - 1) % 2]);
    ++count_;
  }

 private:
  const WinogradMultiply& conv_;
  const WinogradTiles& tiles_;
  float* const m_;
  WinogradProducts products_[2];
  int64_t count_ = 0;
};

}  // namespace

uint64_t winograd_conv_cpu(const WinogradConvParams& params) {
  const WinogradKernel& kernel = params.weight.kernel;
  ConvOutput output = params.output;
  const bool makes_weights = params.transformed == nullptr;
  const bool makes_norm = params.norm.groups > 0 && params.norm.statistics == nullptr;
  const WinogradTiles tiles = tiles_of(params.input, kernel);
  if (tiles.count * output.channels == 0) return 0;
  const int64_t blocks = ceil_div(tiles.count, tiles.block);
  const int64_t out_channels = panel_channels(output.channels), panels = ceil_div(out_channels, kPanel);
  // Threads share the tiles, or where these are few, or weights are made, the panels.
  const bool share_panels = makes_weights || (!makes_norm && blocks < max_threads());
  assert(!makes_norm || (!share_panels && !params.norm.video));
  const int64_t rows_size = tiles.overlap * tiles.pixel_row;
  const int64_t v_size = tiles.inputs * tiles.inputs * tiles.v_matrix, m_size = tiles.block * tiles.m_row;
  const int64_t bytes =
      output.images * output.height * output.width * output.channels * size_of(output.dtype);
  const int64_t read_bytes = params.input.images * params.input.height * params.input.width *
                             params.input.channels * size_of(params.input.dtype);
  output.stream = output.channels % kVector == 0 && output.dtype == DType::kFloat32 &&
                  reinterpret_cast<uintptr_t>(output.y) % 64 == 0 &&
                  exceeds_cache(read_bytes + (output.residual == nullptr ? 1 : 2) * bytes);

  const int64_t group = share_panels ? std::clamp<int64_t>(kGroupFloats / v_size, 1, blocks) : 0;
  const int64_t input_size = activation_size(params.input, params.norm);
  const int64_t partials_size =
      params.statistics == nullptr ? 0 : output.images * tiles.slots * 4 * out_channels;
  float* const shared = scratch(ScratchSlot::kShared, input_size + partials_size + group * v_size);
  const ConvInput input = activated(params.input, params.norm, shared);
  float* const partials = params.statistics == nullptr ? nullptr : shared + input_size;
  float* const group_v = shared + input_size + partials_size;

  const bool pool = kernel.upsample && kernel.transposed;
  const ConvInput* const activation = params.activation.x == nullptr ? nullptr : &params.activation;
  const WinogradMultiply conv = {input, output, pool, partials, activation};
  const int64_t panel_size = panel_weights(kernel);
  const auto transform = VDM_SIMD(winograd_transform_input);
  const int64_t weight_bytes = kernel.out_channels * kernel.in_channels * 9 * size_of(params.weight.dtype);
  Fingerprint weight(params.weight.data, params.checks_weight ? weight_bytes : 0);
  if (!share_panels) {
    // Threads share the panels of the blocks. One that takes over the later panels of a block transforms its
    // input again, and makes the statistics of its first image again.
    const int64_t per_image = ceil_div(tiles.rows * tiles.columns * panels, tiles.block);
    const int64_t least = std::max(makes_norm ? ceil_div(per_image, 4) : 1, std::min<int64_t>(panels, 2));
    parallel_for_shared(blocks * panels, least, [&](SharedRanges& ranges, int64_t thread) {
      const int64_t own_size = makes_norm ? input_size : 0;
      float* const memory = scratch(ScratchSlot::kThread, own_size + rows_size + v_size + 2 * m_size);
      const ConvInput own = makes_norm ? activated(params.input, params.norm, memory) : input;
      WinogradRows rows{memory + own_size, {-1, -1, -1, -1, -1, -1}};
      float* const v = rows.data + rows_size;
      Pipeline pipeline(conv, tiles, v + v_size);
      const int64_t products = ceil_div(blocks * panels, ranges.threads());
      WeightAhead weight_ahead(weight, thread * products, (thread + 1) * products,
                               ranges.threads() * products);
      while (const auto range = ranges.claim(thread)) {
        std::optional<NormsAhead> norms;
        if (makes_norm)
          norms.emplace(own, params.norm, tiles, range->begin / panels * tiles.block,
                        ceil_div(range->end, panels) * tiles.block, memory);
        int64_t transformed = -1;
        for (int64_t i = ranges.next(thread); i >= 0; i = ranges.next(thread)) {
          const int64_t block = i / panels, panel = i % panels, tile = block * tiles.block;
          if (block != transformed)
            transform(own, tiles, tile, std::min(tiles.count, tile + tiles.block), rows, v);
          transformed = block;
          const int64_t due = norms ? norms->due(tile + tiles.block * (panel + 1) / panels) : 0;
          WinogradAhead ahead{{}, {}, weight_ahead.share()};
          if (norms) norms->prefetch(due, ahead);
          pipeline.multiply(block, panel, params.transformed + panel * panel_size, v, ahead);
          if (norms) norms->add(due);
        }
      }
    });
  } else {
    const int64_t parts = tiles.block / kGroupPart;
    for (int64_t first = 0; first < blocks; first += group) {
      const int64_t count = std::min(group, blocks - first);
      parallel_for(count * parts, 1, [&](int64_t begin, int64_t end) {
        WinogradRows rows{scratch(ScratchSlot::kThread, rows_size), {-1, -1, -1, -1, -1, -1}};
        for (int64_t i = begin; i < end; ++i) {
          const int64_t in_block = i % parts * kGroupPart,
                        tile = (first + i / parts) * tiles.block + in_block;
          float* const v = group_v + i / parts * v_size + in_block * tiles.v_row;
          if (tile < tiles.count)
            transform(input, tiles, tile, std::min(tiles.count, tile + kGroupPart), rows, v);
        }
      });
      parallel_for(panels * count, 1, [&](int64_t begin, int64_t end) {
        float* const m = scratch(ScratchSlot::kThread, 2 * m_size + (makes_weights ? panel_size : 0));
        float* const made = m + 2 * m_size;
        Pipeline pipeline(conv, tiles, m);
        const int64_t before = first * panels;
        WeightAhead weight_ahead(weight, before + begin, before + end, blocks * panels);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t panel = i / count;
          if (makes_weights && (i == begin || i % count == 0)) {
            const auto columns = static_cast<int>(panel_columns(output.channels, panel));
            VDM_SIMD(winograd_transform_weights)
            (params.weight, panel * kPanel, columns, 0, input.channels, made, false);
          }
          const float* const weights = makes_weights ? made : params.transformed + panel * panel_size;
          pipeline.multiply(first + i % count, panel, weights, group_v + i % count * v_size,
                            {{}, {}, weight_ahead.share()});
        }
      });
    }
  }
  if (params.statistics != nullptr) {
    parallel_for(output.images, 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto finish = activation == nullptr ? finish_statistics : finish_sums;
        finish(tiles, i, output.channels, partials, params.statistics);
      }
    });
  }
  return weight.value();
}

int64_t winograd_whole_images(const WinogradKernel& kernel, const ConvInput& input) {
  const WinogradTiles tiles = tiles_of(input, kernel);
  return tiles.block / std::gcd(tiles.block, tiles.rows * tiles.columns);
}

int64_t winograd_weights_size(const WinogradKernel& kernel) {
  return ceil_div(kernel.writes(), kPanel) * panel_weights(kernel);
}

bool winograd_makes_statistics(const WinogradKernel& kernel, int64_t images) {
  const int64_t threads = max_threads();
  return !winograd_makes_weights(kernel) && (images % threads == 0 || images >= 8 * threads);
}

bool winograd_makes_weights(const WinogradKernel& kernel) {
  return winograd_weights_size(kernel) > kMadeWeights;
}

void winograd_weights_cpu(const WinogradWeightsParams& params) {
  const WinogradKernel& kernel = params.weight.kernel;
  const int64_t reads = kernel.reads(), panels = ceil_div(kernel.writes(), kPanel);
  const int64_t chunk = 8, chunks = ceil_div(reads, chunk);
  const bool stream = exceeds_cache(winograd_weights_size(kernel) * size_of(DType::kFloat32));
  const auto transform = VDM_SIMD(winograd_transform_weights);
  parallel_for(panels * chunks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t panel = i / chunks, first = panel * kPanel, channel = i % chunks * chunk;
      transform(params.weight, first, static_cast<int>(panel_columns(kernel.writes(), panel)), channel,
                std::min(reads, channel + chunk), params.transformed + panel * panel_weights(kernel), stream);
    }
  });
}

void winograd_weight_gradient_cpu(const WinogradWeightGradientParams& params) {
  WinogradTiles tiles = tiles_of(params.input, params.kernel);
  const int64_t matrices = tiles.points * tiles.points, v_matrices = tiles.inputs * tiles.inputs;
  const int64_t out_channels = panel_channels(params.dy.channels), channels = params.input.channels;
  const int64_t panels = ceil_div(out_channels, kPanel);
  tiles.d_row = out_channels + kLine;
  const int64_t fitting =
      std::max(tiles.block, kGradientFloats / (v_matrices * tiles.v_row + matrices * tiles.d_row));
  const int64_t groups = ceil_div(tiles.count, fitting);
  const int64_t blocks = ceil_div(ceil_div(tiles.count, groups), tiles.block), group = blocks * tiles.block;
  tiles.v_matrix = group * tiles.v_row + kLine;
  tiles.d_matrix = group * tiles.d_row + kLine;
  // With one group, dU need not outlive the panels that are worked on.
  const int64_t panel_size = matrices * channels * kPanel;
  const int64_t round = groups > 1 ? panels : std::clamp<int64_t>(kRoundFloats / panel_size, 1, panels);
  const int64_t all_blocks = ceil_div(tiles.count, tiles.block), rows_size = tiles.overlap * tiles.pixel_row;
  const int64_t v_size = v_matrices * tiles.v_matrix, d_size = matrices * tiles.d_matrix;
  const int64_t input_size = activation_size(params.input, params.norm);
  float* const memory = scratch(
      ScratchSlot::kShared, input_size + v_size + d_size + round * panel_size + all_blocks * out_channels);
  const ConvInput input = activated(params.input, params.norm, memory);
  float* const v = memory + input_size;
  float *const d = v + v_size, *const du = d + d_size, *const dbias = du + round * panel_size;

  const auto transform_input = VDM_SIMD(winograd_transform_input);
  const auto transform_gradient = VDM_SIMD(winograd_transform_output_gradient);
  const auto multiply = VDM_SIMD(winograd_multiply_gradient);
  const auto transform_weights = VDM_SIMD(winograd_transform_weight_gradient);
  const auto columns_of = [&](int64_t panel) {
    return static_cast<int>(panel_columns(params.dy.channels, panel));
  };
  for (int64_t first = 0; first < tiles.count; first += group) {
    const int64_t count = std::min(group, tiles.count - first);
    parallel_for(ceil_div(count, tiles.block), 1, [&](int64_t begin, int64_t end) {
      WinogradRows rows{scratch(ScratchSlot::kThread, rows_size), {-1, -1, -1, -1, -1, -1}};
      for (int64_t i = begin; i < end; ++i) {
        const int64_t tile = i * tiles.block, last = std::min(count, tile + tiles.block);
        transform_input(input, tiles, first + tile, first + last, rows, v + tile * tiles.v_row);
        transform_gradient(params, tiles, first + tile, first + last, d + tile * tiles.d_row,
                           dbias + (first / tiles.block + i) * out_channels);
      }
    });
    for (int64_t panel = 0; panel < panels; panel += round) {
      const int64_t here = std::min(round, panels - panel);
      parallel_for(matrices * here, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t matrix = i / here, p = i % here;
          const int columns = columns_of(panel + p);
          multiply(tiles, count, channels, columns, v + tiles.input_of(matrix) * tiles.v_matrix,
                   d + matrix * tiles.d_matrix + (panel + p) * kPanel, first > 0,
                   du + p * panel_size + matrix * channels * columns);
        }
      });
      if (first + count < tiles.count) continue;
      const int64_t chunk = 8, chunks = ceil_div(channels, chunk);
      parallel_for(here * chunks, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t p = i / chunks, channel = i % chunks * chunk;
          transform_weights(params, (panel + p) * kPanel, columns_of(panel + p), channel,
                            std::min(channels, channel + chunk), du + p * panel_size);
        }
      });
    }
  }
  std::fill_n(params.dbias, params.dy.channels, 0.0f);
  for (int64_t block = 0; block < all_blocks; ++block) {
    for (int64_t c = 0; c < params.dy.channels; ++c) params.dbias[c] += dbias[block * out_channels + c];
  }
}

}  // namespace vdm
