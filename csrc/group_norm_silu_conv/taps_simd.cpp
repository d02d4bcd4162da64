// One matrix product for each tap: its rows are the pixels of an image's row, which have a constant distance
// in memory also where they are every other pixel. The input is activated once per segment, into rows that
// stay in the L2 cache; taps beside each other, whose pixels follow each other without a gap, are one product
// with a longer sum. A tile of kTile pixels and one panel of channels stays in the L1 cache from its first
// tap until it is stored.
#include "group_norm_silu_conv/taps_simd.h"

#include "common/gemm_simd.h"
#include "group_norm_silu_conv/conv_simd.h"

namespace vdm {
namespace VDM_ISA {
namespace {

static_assert(kTapsPanel == kPanel, "a packed weight's panels are those of the matrix products");

constexpr int64_t kTile = 4 * kGemmRows;

// Panels that are computed from a tile's input while that is in the L1 cache: at most so many, and a last one
// when their weight reaches this size.
constexpr int64_t kMaxPanels = 8;
constexpr int64_t kWeightBytes = 128 << 10;

VDM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Some channels of what a task reads, from its lowest tap on. Pixels follow each other.
struct Piece {
  const float* data;
  int64_t channels, row_step, image_step;

  VDM_MEMBER const float* at(int64_t image, int64_t row, int64_t column) const {
    return data + image * image_step + row * row_step + column * channels;
  }
};

// All of them: two pieces where x and x2 are read in place.
struct Pieces {
  Piece pieces[2];
  int count;
};

Pieces read_input(const TapsPlan& plan, const TapsTask& task, float* scratch) {
  const ConvInput& input = plan.input;
  const int64_t row = task.segment * plan.segment_rows * plan.axis.in_step + plan.axis.lowest();
  const int64_t column = plan.axis.lowest();
  if (plan.in_place) {
    const int64_t pixel = (task.image * input.height + row) * input.width + column;
    const auto piece = [&](const void* x, int64_t channels) -> Piece {
      return {static_cast<const float*>(x) + pixel * channels, channels, input.width * channels,
              input.height * input.width * channels};
    };
    if (input.x2 == nullptr) return {{piece(input.x, input.channels), {}}, 1};
    return {{piece(input.x, input.channels1), piece(input.x2, input.channels - input.channels1)}, 2};
  }
  const Piece read = {scratch, input.channels, plan.read_columns * input.channels, plan.read_size()};
  for (int64_t image = 0; image < task.images; ++image) {
    for (int64_t i = 0; i < plan.read_rows; ++i) {
      read_row(input, task.image + image, row + i, column, plan.read_columns,
               scratch + image * read.image_step + i * read.row_step);
    }
  }
  return {{read, {}}, 1};
}

// The rows and columns that a phase computes in one segment.
struct Block {
  int y, x;
  int64_t rows, columns;
  int64_t first_row, first_column;  // of its first tap, from the lowest tap of all phases
};

Block phase_block(const TapsPlan& plan, int64_t segment, int phase) {
  const TapAxis& axis = plan.axis;
  const int y = phase / axis.out_step, x = phase % axis.out_step;
  Block block = {y,
                 x,
                 plan.rows(segment, y),
                 plan.columns(x),
                 axis.first[y] - axis.lowest(),
                 axis.first[x] - axis.lowest()};
  // Rows that follow each other without a gap, where they are read and where they are written, are one.
  if (axis.in_step == 1 && axis.out_step == 1 && axis.taps[0] == 1) {
    block.columns *= block.rows;
    block.rows = block.columns > 0 ? 1 : 0;
  }
  return block;
}

// Out of line, so that the tile sizes exist once.
template <bool kAccumulate>
__attribute__((noinline)) void multiply(int64_t rows, int64_t columns, GemmA a, const float* b, float* c,
                                        int64_t k, GemmSum products) {
  gemm_panel<kAccumulate>(rows, columns > kHalfPanel ? kPanel : kHalfPanel, a, b, kPanel, c, kPanel, k,
                          products);
}

// The sum over a phase's taps for `pixels` pixels of one row, of which the first reads (row, column).
VDM_INLINE void sum_taps(const TapsPlan& plan, const Block& block, const Pieces& input, int64_t image,
                         int64_t row, int64_t column, int64_t pixels, int64_t columns, const float* packed,
                         float* tile) {
  const TapAxis& axis = plan.axis;
  if (axis.taps[block.y] * axis.taps[block.x] == 0) return fill_zero(tile, pixels * kPanel);
  for (int i = 0; i < input.count; ++i) {
    const Piece& piece = input.pieces[i];
    const GemmA a = {piece.at(image, row, column), axis.in_step * piece.channels, 1};
    const int64_t k = axis.taps[block.x] * piece.channels;
    const GemmSum rows = {axis.taps[block.y], piece.row_step, k * kPanel};
    i == 0 ? multiply<false>(pixels, columns, a, packed, tile, k, rows)
           : multiply<true>(pixels, columns, a, packed, tile, k, rows);
    packed += k * kPanel;
  }
}

// Asks for what the next tile reads in place, which may not be in any cache.
VDM_INLINE void prefetch_input(const TapsPlan& plan, const Pieces& input, int64_t image, int64_t row,
                               int64_t column, int64_t pixels) {
  for (int p = 0; p < input.count; ++p) {
    const float* const begin = input.pieces[p].at(image, row, column);
    const int64_t size = pixels * plan.axis.in_step * input.pieces[p].channels;
    for (int64_t i = 0; i < size; i += 16) prefetch(begin + i);
  }
}

// One phase of one segment of the task's image-th image, for some panels. What a tile reads stays in the L1
// cache for all of them.
void convolve(const TapsConv& conv, const TapsTask& task, const Block& block, const Pieces& input,
              int64_t image, int64_t first_panel, int64_t last_panel) {
  const TapsPlan& plan = conv.plan;
  const TapAxis& axis = plan.axis;
  const ConvOutput& output = conv.output;
  const int64_t step = axis.out_step * output.channels;
  PanelMoments moments[kMaxPanels];
  for (int i = 0; i < kMaxPanels; ++i) moments[i].count = 0;
  alignas(64) float tile[kTile * kPanel];
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t out_row = (task.segment * plan.segment_rows + i) * axis.out_step + block.y;
    const int64_t out_pixel = ((task.image + image) * output.height + out_row) * output.width + block.x;
    for (int64_t j = 0; j < block.columns; j += kTile) {
      const int64_t pixels = smaller(block.columns - j, kTile);
      if (plan.in_place && first_panel == task.panel)
        prefetch_input(plan, input, image, i * axis.in_step + block.first_row,
                       (j + kTile) * axis.in_step + block.first_column,
                       smaller(block.columns - j - kTile, kTile));
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const int64_t columns = smaller(output.channels - panel * kPanel, kPanel);
        const int64_t first_tap = panel * axis.total() + axis.first_tap(block.y, block.x);
        prefetch_tile(output, out_pixel * output.channels + j * step + panel * kPanel, step, pixels,
                      static_cast<int>(columns));
        sum_taps(plan, block, input, image, i * axis.in_step + block.first_row,
                 j * axis.in_step + block.first_column, pixels, columns,
                 conv.packed + first_tap * plan.input.channels * kPanel, tile);
        write_tile(output, out_pixel * output.channels + j * step, panel * kPanel, step, pixels,
                   static_cast<int>(columns), tile,
                   conv.moments == nullptr ? nullptr : &moments[panel - first_panel]);
      }
    }
  }
  if (conv.moments == nullptr || block.rows * block.columns <= 0) return;
  const int64_t part = ((task.image + image) * plan.segments + task.segment) * plan.phases() +
                       block.y * axis.out_step + block.x;
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const int64_t channel = panel * kPanel;
    moments[panel - first_panel].finish(static_cast<int>(smaller(output.channels - channel, kPanel)),
                                        conv.moments + part * output.channels + channel);
  }
}

// One panel of the gradient of one phase of a segment's output, (pixels, kPanel); adds its sum over pixels to
// dbias.
void read_dy(const TapsWeightGradient& gradient, const TapsTask& task, const Block& block, int64_t image,
             int64_t panel, float* out, float* dbias) {
  const ConvInput& dy = gradient.dy;
  const int64_t out_step = gradient.plan.axis.out_step;
  const int64_t channel = panel * kPanel, columns = smaller(dy.channels - channel, kPanel);
  F32 sum[kPanel / kLanes] = {};
  if (columns < kPanel) fill_zero(out, block.rows * block.columns * kPanel);
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t row = (task.segment * gradient.plan.segment_rows + i) * out_step + block.y;
    const int64_t pixel = ((task.image + image) * dy.height + row) * dy.width + block.x;
    for (int64_t j = 0; j < block.columns; ++j, out += kPanel) {
      read_elements(dy.x, dy.dtype, (pixel + j * out_step) * dy.channels + channel, columns, out);
      for (int v = 0; v < kPanel / kLanes; ++v) sum[v] = sum[v] + load(out + v * kLanes);
    }
  }
  for (int v = 0; v < kPanel / kLanes; ++v) {
    float* const total = dbias + panel * kPanel + v * kLanes;
    store(total, load(total) + sum[v]);
  }
}

}  // namespace

void taps_conv(const TapsConv& conv, const TapsTask& task, float* scratch) {
  const Pieces input = read_input(conv.plan, task, scratch);
  for (int phase = 0; phase < conv.plan.phases(); ++phase) {
    const Block block = phase_block(conv.plan, task.segment, phase);
    const int64_t taps = conv.plan.axis.taps[block.y] * conv.plan.axis.taps[block.x];
    const int64_t panel_bytes = taps * conv.plan.input.channels * kPanel * int64_t{sizeof(float)};
    // The weight of so many panels stays in the L2 cache for all images.
    const int64_t count = panel_bytes == 0 ? kMaxPanels : smaller(kMaxPanels, kWeightBytes / panel_bytes + 1);
    for (int64_t panel = task.panel; panel < task.last_panel; panel += count) {
      for (int64_t image = 0; image < task.images; ++image) {
        convolve(conv, task, block, input, image, panel, smaller(panel + count, task.last_panel));
      }
    }
  }
  if (conv.output.stream) stream_fence();
}

void taps_weight_gradient(const TapsWeightGradient& gradient, const TapsTask& task, float* dpacked,
                          float* dbias, float* scratch) {
  const TapsPlan& plan = gradient.plan;
  const TapAxis& axis = plan.axis;
  const Pieces input = read_input(plan, task, scratch);
  float* const dy = scratch + task.images * plan.read_size();
  for (int phase = 0; phase < plan.phases(); ++phase) {
    const Block block = phase_block(plan, task.segment, phase);
    for (int64_t panel = task.panel; panel < task.last_panel; ++panel) {
      for (int64_t image = 0; image < task.images; ++image) {
        read_dy(gradient, task, block, image, panel, dy + image * gradient.dy_size(), dbias);
      }
      const int64_t columns = smaller(plan.out_channels - panel * kPanel, kPanel);
      float* out =
          dpacked + (panel * axis.total() + axis.first_tap(block.y, block.x)) * plan.input.channels * kPanel;
      for (int t = 0; t < axis.taps[block.y]; ++t) {
        for (int p = 0; p < input.count; ++p) {
          // Neighbouring taps' channels follow each other, here as rows of the product.
          const Piece& piece = input.pieces[p];
          const int64_t channels = axis.taps[block.x] * piece.channels;
          for (int64_t c = 0; c < channels; c += kTile) {
            for (int64_t image = 0; image < task.images; ++image) {
              const GemmA a = {piece.at(image, block.first_row + t, block.first_column) + c, 1,
                               axis.in_step * piece.channels};
              multiply<true>(smaller(channels - c, kTile), columns, a, dy + image * gradient.dy_size(),
                             out + c * kPanel, block.columns,
                             {block.rows, axis.in_step * piece.row_step, block.columns * kPanel});
            }
          }
          out += channels * kPanel;
        }
      }
    }
  }
}

}  // namespace VDM_ISA
}  // namespace vdm
