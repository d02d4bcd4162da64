#include "common/scratch.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace vdm {
namespace {

class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  float* reserve(int64_t count) {
    if (count <= count_) return data_;
    // Whole huge pages: fewer entries of the TLB, which strided access would run through.
    constexpr size_t page = size_t{2} << 20;
    const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + page - 1) / page * page;
    std::free(data_);
    count_ = 0;
    data_ = static_cast<float*>(std::aligned_alloc(page, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(data_, bytes, MADV_HUGEPAGE);
#endif
    count_ = static_cast<int64_t>(bytes / sizeof(float));
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace

float* scratch(ScratchSlot slot, int64_t count) {
  thread_local Buffer buffers[static_cast<int>(ScratchSlot::kCount)];
  return buffers[static_cast<int>(slot)].reserve(count);
}

}  // namespace vdm
