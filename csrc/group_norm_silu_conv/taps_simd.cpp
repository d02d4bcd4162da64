// One matrix product for each tap: its rows are the pixels of an image's row, which have a constant distance
// in memory also where they are every other pixel. The input is activated once per segment, into rows that
// stay in the L2 cache; taps beside each other, whose pixels follow each other without a gap, are one product
// with a longer sum. Whole panels of float32 go from the registers, where they are summed, to y; other tiles,
// of kTile pixels and one panel of channels, stay in the L1 cache from their first tap until they are stored.
// Each step of a product also asks for a cache line of what is next: input, residual and output.
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

// Memory that will be touched soon: rows of `width` bytes, `pitch` apart.
struct Lines {
  const char* first;
  int64_t width, rows, pitch;
};

// Asks for one cache line of a list of Lines at each step of the products, into the L2 cache.
class LinesAhead {
 public:
  VDM_MEMBER LinesAhead(const Lines* begin, const Lines* end) : next_(begin), end_(end) { take(); }

  VDM_MEMBER void step() {
    if (rows_ == 0) return;
    __builtin_prefetch(line_, 0, 2);
    line_ += 64;
    if (line_ < row_end_) return;
    row_end_ += pitch_;
    line_ = row_end_ - width_;
    if (--rows_ == 0) take();
  }

 private:
  VDM_MEMBER void take() {
    for (rows_ = 0; rows_ == 0 && next_ < end_; ++next_) {
      line_ = next_->first;
      width_ = next_->width;
      row_end_ = line_ + width_;
      pitch_ = next_->pitch;
      rows_ = width_ > 0 ? next_->rows : 0;
    }
  }

  const Lines *next_, *end_;
  const char *line_, *row_end_;
  int64_t width_, pitch_, rows_;
};

// Consecutive floats: the index-th of `count` shares, in whole cache lines.
VDM_INLINE Lines share_of_lines(const float* data, int64_t floats, int64_t index, int64_t count) {
  constexpr int64_t kLine = 16;
  const int64_t begin = floats * index / count / kLine * kLine, end = floats * (index + 1) / count;
  return {reinterpret_cast<const char*>(data + begin), (end - begin) * int64_t{sizeof(float)}, 1, 0};
}

// gemm_add takes its errand by value; this one goes on from product to product.
struct StepAhead {
  LinesAhead* lines;
  VDM_MEMBER void operator()() const { lines->step(); }
};

// What the pixels of a tile are the sum of: for each piece, products by row of taps.
struct TileProducts {
  GemmA a[2];
  int64_t k[2];
  GemmSum rows[2];
  int count;
};

TileProducts tile_products(const TapsPlan& plan, const Block& block, const Pieces& input, int64_t image,
                           int64_t row, int64_t column) {
  const TapAxis& axis = plan.axis;
  TileProducts products;
  products.count = input.count;
  for (int p = 0; p < input.count; ++p) {
    const Piece& piece = input.pieces[p];
    products.a[p] = {piece.at(image, row, column), axis.in_step * piece.channels, 1};
    products.k[p] = axis.taps[block.x] * piece.channels;
    products.rows[p] = {axis.taps[block.y], piece.row_step, products.k[p] * kPanel};
  }
  return products;
}

// A tile (pixels, kPanel).
void sum_taps(const TileProducts& products, int64_t pixels, int64_t columns, const float* packed,
              float* tile) {
  if (products.rows[0].count == 0) return fill_zero(tile, pixels * kPanel);
  for (int p = 0; p < products.count; ++p) {
    const GemmSum& rows = products.rows[p];
    p == 0 ? multiply<false>(pixels, columns, products.a[p], packed, tile, products.k[p], rows)
           : multiply<true>(pixels, columns, products.a[p], packed, tile, products.k[p], rows);
    packed += rows.count * rows.b_step;
  }
}

// Where a tile of float32 goes.
struct TileOutput {
  float* y;
  const float *residual, *bias;  // or null
  int64_t step;                  // from pixel to pixel
  bool streams;

  VDM_MEMBER TileOutput at(int64_t pixel, int64_t channel) const {
    const int64_t offset = pixel * step + channel;
    return {y + offset, residual == nullptr ? nullptr : residual + offset,
            bias == nullptr ? nullptr : bias + channel, step, streams};
  }
};

template <int kRows, bool kStreams>
VDM_INLINE void store_sums(const F32 (&sum)[kRows][2], const TileOutput& output) {
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    const F32 bias = output.bias == nullptr ? splat(0.0f) : load(output.bias + v * kLanes);
    float* const y = output.y + v * kLanes;
    if (output.residual == nullptr) {
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) store_or_stream(y + m * output.step, sum[m][v] + bias, kStreams);
    } else {
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m)
        store_or_stream(y + m * output.step,
                        sum[m][v] + bias + load(output.residual + m * output.step + v * kLanes), kStreams);
    }
  }
}

// Pixels [pixel, pixel + kRows) of a tile and two vectors of its channels, which go from registers to y.
template <int kRows>
VDM_INLINE void sum_rows(const TileProducts& products, int64_t pixel, const float* packed,
                         const TileOutput& output, LinesAhead& ahead) {
  F32 sum[kRows][2] = {};
  // Long sums are made of parts, for the sake of rounding errors.
  alignas(64) float part[kRows][2 * kLanes];
  for (int p = 0; p < products.count; ++p) {
    if (p > 0) {
#pragma GCC unroll 16
      for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          store(part[m] + v * kLanes, sum[m][v]);
          sum[m][v] = splat(0.0f);
        }
      }
    }
    GemmA a = products.a[p];
    a.data += pixel * a.row;
    for (int64_t i = 0; i < products.rows[p].count; ++i) {
      gemm_add(sum, a, packed, kPanel, products.k[p], StepAhead{&ahead});
      a.data += products.rows[p].a_step;
      packed += products.rows[p].b_step;
    }
  }
  if (products.count > 1) {
#pragma GCC unroll 16
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sum[m][v] = load(part[m] + v * kLanes) + sum[m][v];
    }
  }
  output.streams ? store_sums<kRows, true>(sum, output) : store_sums<kRows, false>(sum, output);
}

template <int kRows = kGemmRows>
VDM_INLINE void sum_rows_of(int64_t rows, const TileProducts& products, int64_t pixel, const float* packed,
                            const TileOutput& output, LinesAhead& ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return sum_rows_of<kRows - 1>(rows, products, pixel, packed, output, ahead);
  }
  sum_rows<kRows>(products, pixel, packed, output, ahead);
}

// A tile of a whole panel. Out of line, so that the tile sizes exist once.
__attribute__((noinline)) void sum_tile(const TileProducts& products, int64_t pixels, const float* packed,
                                        const TileOutput& output, const Lines* begin, const Lines* end) {
  LinesAhead ahead(begin, end);
  for (int n = 0; n < kPanel; n += 2 * kLanes) {
    for (int64_t pixel = 0, rows = 0; pixel < pixels; pixel += rows) {
      rows = gemm_rows(pixels - pixel);
      sum_rows_of(rows, products, pixel, packed + n, output.at(pixel, n), ahead);
    }
  }
}

// What is touched after the index-th of `count` panels of a tile: the output of the next panel, or of the
// next tile; and of what the next tile reads in place, which may not be in any cache, a share. All of it may
// lie beyond the task.
int lines_ahead(const TapsPlan& plan, const TileProducts& products, const TileOutput& output, int64_t index,
                int64_t count, bool reads, Lines* lines) {
  constexpr int64_t kFloat = sizeof(float);
  Lines* next = lines;
  const int64_t offset = index + 1 < count ? kPanel : kTile * output.step - index * kPanel;
  const auto add_output = [&](const float* tensor) {
    *next++ = {reinterpret_cast<const char*>(tensor + offset), kPanel * kFloat, kTile, output.step * kFloat};
  };
  if (output.residual != nullptr) add_output(output.residual);
  if (!output.streams) add_output(output.y);
  for (int p = 0; p < (plan.in_place && reads ? products.count : 0); ++p) {
    const int64_t size = kTile * products.a[p].row;
    *next++ = share_of_lines(products.a[p].data + size, size, index, count);
  }
  return static_cast<int>(next - lines);
}

// One phase of one segment of the task's image-th image, for some panels. What a tile reads stays in the L1
// cache for all of them.
void convolve(const TapsConv& conv, const TapsTask& task, const Block& block, const Pieces& input,
              int64_t image, int64_t first_panel, int64_t last_panel) {
  const TapsPlan& plan = conv.plan;
  const TapAxis& axis = plan.axis;
  const ConvOutput& output = conv.output;
  const int64_t step = axis.out_step * output.channels;
  const bool direct = output.dtype == DType::kFloat32 && conv.moments == nullptr;
  PanelMoments moments[kMaxPanels];
  for (int i = 0; i < kMaxPanels; ++i) moments[i].count = moments[i].tiles = 0;
  alignas(64) float tile[kTile * kPanel];
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t out_row = (task.segment * plan.segment_rows + i) * axis.out_step + block.y;
    const int64_t out_pixel = ((task.image + image) * output.height + out_row) * output.width + block.x;
    const int64_t row = i * axis.in_step + block.first_row;
    for (int64_t j = 0; j < block.columns; j += kTile) {
      const int64_t pixels = smaller(block.columns - j, kTile);
      const int64_t column = j * axis.in_step + block.first_column;
      const int64_t out = out_pixel * output.channels + j * step;
      const TileProducts products = tile_products(plan, block, input, image, row, column);
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const int64_t columns = smaller(output.channels - panel * kPanel, kPanel);
        const int64_t first_tap = panel * axis.total() + axis.first_tap(block.y, block.x);
        const float* const packed = conv.packed + first_tap * plan.input.channels * kPanel;
        if (direct && columns == kPanel) {
          const TileOutput whole = {
              static_cast<float*>(output.y) + out,
              output.residual == nullptr ? nullptr : static_cast<const float*>(output.residual) + out,
              output.bias, step, streams_lines(output)};
          const TileOutput to = whole.at(0, panel * kPanel);
          Lines lines[4];
          const int count = lines_ahead(plan, products, to, panel - first_panel, last_panel - first_panel,
                                        first_panel == task.panel, lines);
          sum_tile(products, pixels, packed, to, lines, lines + count);
        } else {
          prefetch_tile(output, out + panel * kPanel, step, pixels, static_cast<int>(columns));
          sum_taps(products, pixels, columns, packed, tile);
          write_tile(output, out, panel * kPanel, step, pixels, static_cast<int>(columns), tile,
                     conv.moments == nullptr ? nullptr : &moments[panel - first_panel]);
        }
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
      const int64_t from = (pixel + j * out_step) * dy.channels + channel;
      if (columns < kPanel) read_elements(dy.x, dy.dtype, from, columns, out);
#pragma GCC unroll 8
      for (int v = 0; v < kPanel / kLanes; ++v) {
        if (columns == kPanel) store(out + v * kLanes, load(dy.x, dy.dtype, from + v * kLanes));
        sum[v] = sum[v] + load(out + v * kLanes);
      }
    }
  }
  for (int v = 0; v < kPanel / kLanes; ++v) {
    float* const total = dbias + panel * kPanel + v * kLanes;
    store(total, load(total) + sum[v]);
  }
}

// The channels of `pixels` pixels as matrices (pixels, kPackedRow), one for each tile of the products, which
// so read consecutive memory. A power of two between matrices would put what is written for a pixel into few
// sets of the L1 cache.
constexpr int64_t kPackedRow = (kGemmRows + kLanes - 1) / kLanes * kLanes;
constexpr int64_t kMatrixGap = 16;
static_assert(kGemmRows * 16 == kPackedRow * 12 && kPackedRow >= 8 && kPackedRow <= 16 && kMatrixGap <= 16,
              "TapsWeightGradient::packed_size() has room");

float* pack_channels(const Piece& piece, int64_t image, int64_t pixels, float* out) {
  constexpr int64_t kPixels = 16;  // whose channels stay in the L1 cache
  float* end = out;
  for (int64_t first = 0; first < pixels; first += kPixels) {
    const int64_t count = smaller(pixels - first, kPixels);
    float* to = out + first * kPackedRow;
    for (int64_t c = 0, rows = 0; c < piece.channels; c += rows) {
      rows = gemm_rows(piece.channels - c);
      const float* const in = piece.at(image, 0, first) + c;
      for (int64_t p = 0; p < count; ++p) {
#pragma GCC unroll 2
        for (int i = 0; i < kPackedRow; i += kLanes) {
          const int lanes = i < rows ? lanes_of(rows - i) : 0;
          store(to + p * kPackedRow + i, load_partial(in + p * piece.channels + i, lanes));
        }
      }
      to += pixels * kPackedRow + kMatrixGap;
    }
    end = to - first * kPackedRow;
  }
  return end;
}

// Out of line, so that the tile sizes exist once. Returns the end of what it has read of `packed`.
__attribute__((noinline)) const float* multiply_packed(const float* packed, int64_t channels, int64_t pixels,
                                                       const float* dy, int64_t columns, float* out,
                                                       LinesAhead& lines) {
  LinesAhead ahead = lines;  // stays in registers
  StepAhead errand = {&ahead};
  for (int64_t c = 0, rows = 0; c < channels; c += rows) {
    rows = gemm_rows(channels - c);
    gemm_panel<true>(rows, columns > kHalfPanel ? kPanel : kHalfPanel, {packed, 1, kPackedRow}, dy, kPanel,
                     out + c * kPanel, kPanel, pixels, kOneProduct, errand);
    packed += pixels * kPackedRow + kMatrixGap;
  }
  lines = ahead;
  return packed;
}

// What is read after a panel of the gradient of `pixels` pixels: the next panel, or the first one of the
// pixels that follow, and of what those read in place, a share.
int gradient_lines_ahead(const TapsWeightGradient& gradient, const TapsTask& task, const Pieces& input,
                         int64_t image, int64_t pixels, int64_t panel, Lines* lines) {
  const TapsPlan& plan = gradient.plan;
  const ConvInput& dy = gradient.dy;
  const int64_t size = size_of(dy.dtype), index = panel - task.panel, count = task.last_panel - task.panel;
  const int64_t row = (task.image + image) * dy.height + task.segment * plan.segment_rows;
  const int64_t next =
      index + 1 < count ? panel * kPanel + kPanel : pixels * dy.channels + task.panel * kPanel;
  Lines* end = lines;
  *end++ = {static_cast<const char*>(dy.x) + (row * dy.width * dy.channels + next) * size, kPanel * size,
            pixels, dy.channels * size};
  for (int p = 0; p < (plan.in_place ? input.count : 0); ++p) {
    const float* const data = input.pieces[p].at(image, 0, 0);
    *end++ = share_of_lines(data + pixels * input.pieces[p].channels, pixels * input.pieces[p].channels,
                            index, count);
  }
  return static_cast<int>(end - lines);
}

// The gradient of a pointwise convolution: both operands of its products are copied to where they are
// consecutive in memory.
void pointwise_gradient(const TapsWeightGradient& gradient, const TapsTask& task, const Pieces& input,
                        float* dpacked, float* dbias, float* dy, float* packed) {
  const Block block = phase_block(gradient.plan, task.segment, 0);
  const int64_t pixels = block.columns;
  for (int64_t image = 0; image < task.images; ++image) {
    float* to = packed;
    for (int p = 0; p < input.count; ++p) {
      to = pack_channels(input.pieces[p], image, pixels, to);
    }
    for (int64_t panel = task.panel; panel < task.last_panel; ++panel) {
      read_dy(gradient, task, block, image, panel, dy, dbias);
      Lines lines[3];
      LinesAhead ahead(lines,
                       lines + gradient_lines_ahead(gradient, task, input, image, pixels, panel, lines));
      const int64_t columns = smaller(gradient.plan.out_channels - panel * kPanel, kPanel);
      const float* from = packed;
      float* out = dpacked + panel * gradient.plan.input.channels * kPanel;
      for (int p = 0; p < input.count; ++p) {
        const int64_t channels = input.pieces[p].channels;
        from = multiply_packed(from, channels, pixels, dy, columns, out, ahead);
        out += channels * kPanel;
      }
    }
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
  if (axis.is_pointwise()) {
    return pointwise_gradient(gradient, task, input, dpacked, dbias, dy, dy + gradient.dy_size());
  }
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
