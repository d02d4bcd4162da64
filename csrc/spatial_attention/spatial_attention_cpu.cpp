// The forward pass is split over groups of queries. The backward pass is split over heads of images, where
// dK, dV and the table's gradient add up over the queries in their order; where those are few, over parts of
// the queries too, whose sums are added in a second stage. The parts depend on the shape only: the result
// does not depend on the number of threads.
#include <algorithm>
#include <iterator>
#include <type_traits>
#include <vector>

#include "common/buffer.h"
#include "common/parallel.h"
#include "spatial_attention/spatial_attention.h"
#include "spatial_attention/spatial_attention_simd.h"

namespace vdm {
namespace {

constexpr int64_t kGrain = int64_t{1} << 17;  // multiplications that pay for a thread
constexpr int64_t kMostParts = 32;            // of the backward pass, where heads of images are fewer

int64_t pad(int64_t count) { return (count + kSpatialPadding - 1) / kSpatialPadding * kSpatialPadding; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where everything is.
class Layout {
 public:
  explicit Layout(const SpatialAttentionInput& in)
      : in_(in), table_size_((2 * in.height - 1) * (2 * in.width - 1)) {
    if (in.bias_table == nullptr) return;
    tables_.resize(static_cast<size_t>(in.heads * table_size_ + kSpatialPadding));
    std::transform(in.bias_table, in.bias_table + in.heads * table_size_, tables_.begin(),
                   [](float bias) { return bias * kLog2E; });
  }

  int64_t pixels() const { return in_.height * in_.width; }
  int64_t padded() const { return pad(in_.channels); }
  int64_t heads() const { return in_.images * in_.heads; }
  int64_t groups() const { return ceil_div(pixels(), kSpatialQueries); }
  int64_t table_size() const { return table_size_; }

  // The rows of head `head % heads` of image `head / heads` in q, k or v (parts 0 to 2), or in out.
  template <typename Tensor>
  SpatialTensor<Tensor> qkv_rows(Tensor* tensor, int64_t head, int64_t part) const {
    return rows(tensor, in_.qkv_row, head / in_.heads, part * in_.heads + head % in_.heads);
  }
  template <typename Tensor>
  SpatialTensor<Tensor> out_rows(Tensor* tensor, int64_t head) const {
    return rows(tensor, in_.out_row, head / in_.heads, head % in_.heads);
  }

  SpatialTask task(int64_t head) const {
    const auto part = [&](int64_t i) { return qkv_rows(in_.qkv, head, i); };
    const float* table = tables_.empty() ? nullptr : tables_.data() + head % in_.heads * table_size_;
    return {part(0), part(1), part(2), table, in_.height, in_.width};
  }

 private:
  template <typename Tensor>
  SpatialTensor<Tensor> rows(Tensor* tensor, int64_t row, int64_t image, int64_t head) const {
    using Byte = std::conditional_t<std::is_const_v<Tensor>, const char, char>;
    const int64_t first = image * pixels() * row + head * in_.channels;
    return {static_cast<Byte*>(tensor) + first * size_of(in_.dtype), in_.dtype, pixels(), row, in_.channels};
  }

  const SpatialAttentionInput& in_;
  int64_t table_size_;
  std::vector<float> tables_;
};

// What one thread works in.
class Scratch {
 public:
  Scratch(const Layout& layout, bool gradients) {
    const int64_t width = layout.padded(), queries = kSpatialQueries;
    const int64_t rows = layout.pixels() * width, group = queries * width;
    const int64_t keys = gradients ? layout.pixels() : std::min(layout.pixels(), kSpatialKeys);
    const int64_t scores = keys * queries, tops = ceil_div(layout.pixels(), kSpatialKeys) * queries;
    struct Part {
      float** pointer;
      int64_t size;
    };
    const Part parts[] = {{&view_.k, rows},
                          {&view_.v, rows},
                          {&view_.q_transposed, group},
                          {&view_.scores, scores + kSpatialPadding},
                          {&view_.out, group},
                          {&view_.top, queries},
                          {&view_.sum, queries},
                          {&view_.dot, queries},
                          {&view_.factor, queries},
                          // The backward pass has these too.
                          {&view_.q, group},
                          {&view_.dout, group},
                          {&view_.dout_transposed, group},
                          {&view_.dscores, scores + kSpatialPadding},
                          {&view_.tops, tops},
                          {&view_.skewed, kSpatialSkewed}};
    const size_t count = gradients ? std::size(parts) : 9;
    int64_t size = 0;
    for (size_t i = 0; i < count; ++i) size += parts[i].size;
    memory_ = allocate(size);
    float* next = memory_.get();
    for (size_t i = 0; i < count; next += parts[i++].size) *parts[i].pointer = next;
  }

  const SpatialScratch& view() const { return view_; }

 private:
  Buffer memory_;
  SpatialScratch view_ = {};
};

}  // namespace

void spatial_attention_cpu(const SpatialAttentionParams& params) {
  const SpatialAttentionInput& in = params.input;
  const Layout layout(in);
  const int64_t groups = layout.groups();
  const int64_t work = kSpatialQueries * layout.pixels() * layout.padded() + 1;
  const auto attend = VDM_SIMD(spatial_attend);
  parallel_for(layout.heads() * groups, kGrain / work, [&](int64_t begin, int64_t end) {
    const Scratch scratch(layout, false);
    while (begin < end) {
      const int64_t head = begin / groups, next = std::min(end, (head + 1) * groups);
      const int64_t first = begin % groups * kSpatialQueries, last = first + (next - begin) * kSpatialQueries;
      SpatialTask task = layout.task(head), following;
      if (next < end) {
        following = layout.task(head + 1);
        task.next = &following;
      }
      attend(task, layout.out_rows(params.out, head), first, std::min(last, layout.pixels()), scratch.view());
      begin = next;
    }
  });
}

void spatial_attention_bwd_cpu(const SpatialAttentionBackwardParams& params) {
  const SpatialAttentionInput& in = params.input;
  const Layout layout(in);
  const int64_t heads = layout.heads(), groups = layout.groups();
  const int64_t parts = std::clamp<int64_t>(kMostParts / heads, 1, groups);
  const bool rows = params.dqkv != nullptr, table = params.dbias_table != nullptr;
  const int64_t half = layout.pixels() * layout.padded();  // dK, then dV
  const int64_t table_row = layout.table_size() + kSpatialPadding;
  const Buffer tables = allocate(table ? heads * parts * table_row : 0);
  const Buffer partials = allocate(rows && parts > 1 ? heads * parts * 2 * half : 0);
  const auto attend = VDM_SIMD(spatial_attend_bwd);
  const auto write = VDM_SIMD(spatial_write_sum);
  const auto gradient_of = [&](int64_t head, int64_t part) {
    return layout.qkv_rows(params.dqkv, head, part);
  };
  const int64_t work = groups / parts * kSpatialQueries * layout.pixels() * layout.padded() + 1;
  parallel_for(heads * parts, kGrain / work, [&](int64_t begin, int64_t end) {
    const Scratch scratch(layout, true);
    const Buffer own = allocate(rows && parts == 1 ? 2 * half : 0);
    const auto task_of = [&](int64_t i) {
      const int64_t head = i / parts;
      SpatialGradientTask task = {};
      task.task = layout.task(head);
      task.dout = layout.out_rows(params.dout, head);
      if (rows) {
        task.dq = gradient_of(head, 0);
        task.dk = parts == 1 ? own.get() : partials.get() + i * 2 * half;
        task.dv = task.dk + half;
      }
      if (rows && parts == 1) {
        task.dk_rows = gradient_of(head, 1);
        task.dv_rows = gradient_of(head, 2);
      }
      if (table) task.dtable = tables.get() + i * table_row;
      return task;
    };
    for (int64_t i = begin; i < end; ++i) {
      const int64_t part = i % parts;
      SpatialGradientTask task = task_of(i), next;
      if (parts == 1 && i + 1 < end) task.next = &(next = task_of(i + 1));
      const int64_t first = groups * part / parts * kSpatialQueries;
      const int64_t last = groups * (part + 1) / parts * kSpatialQueries;
      attend(task, first, std::min(last, layout.pixels()), scratch.view());
    }
  });
  if (rows && parts > 1) {
    parallel_for(heads, kGrain / (2 * half * parts + 1), [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; ++head) {
        const float* const sums = partials.get() + head * parts * 2 * half;
        write(sums, parts, 2 * half, layout.pixels(), gradient_of(head, 1));
        write(sums + half, parts, 2 * half, layout.pixels(), gradient_of(head, 2));
      }
    });
  }
  if (!table) return;
  const int64_t summed = in.images * parts * layout.table_size() + 1;
  parallel_for(in.heads, kGrain / summed, [&](int64_t begin, int64_t end) {
    std::vector<double> sum(static_cast<size_t>(layout.table_size()));
    for (int64_t head = begin; head < end; ++head) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (int64_t image = 0; image < in.images; ++image) {
        for (int64_t part = 0; part < parts; ++part) {
          const float* partial = tables.get() + ((image * in.heads + head) * parts + part) * table_row;
          for (size_t t = 0; t < sum.size(); ++t) sum[t] += partial[t];
        }
      }
      std::copy(sum.begin(), sum.end(), params.dbias_table + head * layout.table_size());
    }
  });
}

}  // namespace vdm
