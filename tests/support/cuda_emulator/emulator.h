// CUDA on a CPU, as far as csrc/ uses it, to run kernels where there is no GPU. Every CUDA source is compiled
// as C++ with this included first.
//
// The blocks of a grid run one after the other, the threads of a block as coroutines: one runs until it waits
// for its warp or its block, or ends. Threads run in ascending order in even blocks and in descending order
// in odd ones, so that what lacks a barrier gives wrong results in one of them. Dynamic shared memory begins
// as NaN. A barrier that some threads never reach is an error.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <tuple>
#include <vector>

#undef __device__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __shared__
#define __device__
#define __global__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static  // there is one block at a time

namespace emulator {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s\n", what);
  std::abort();
}

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kDone };

struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Thread {
  ucontext_t context;
  State state;
  std::vector<char> stack = std::vector<char>(256 << 10);
  // What a warp's threads tell each other. Two in turn: nobody gets to the next but one before all have read.
  std::array<std::array<char, 32>, 2> told;
  int exchanges;
  std::vector<AsyncCopy> copies;
};

inline std::vector<std::unique_ptr<Thread>> threads;
inline ucontext_t scheduler;
inline int current;
inline std::function<void()> kernel;
inline std::vector<uint4> dynamic_shared_memory;
inline uint3 thread_index, block_index;
inline dim3 block_size, grid_size;

inline uint4* dynamic_shared() { return dynamic_shared_memory.data(); }
inline Thread& self() { return *threads[current]; }
inline int lane() { return current % 32; }

inline void wait(State barrier) {
  self().state = barrier;
  swapcontext(&self().context, &scheduler);
}

// Tells the warp `value`, and gives what its lane `l` told with it: told(l).
template <typename T>
auto exchange(const T& value) {
  static_assert(sizeof(T) <= 32);
  const int turn = self().exchanges++ % 2;
  std::memcpy(self().told[turn].data(), &value, sizeof(T));
  wait(State::kAtWarpBarrier);
  return [first = current / 32 * 32, turn](int l) {
    T told;
    std::memcpy(&told, threads[first + l]->told[turn].data(), sizeof(T));
    return told;
  };
}

inline void run_thread() {
  kernel();
  if (!self().copies.empty()) fail("a copy was never waited for");
  self().state = State::kDone;
}

// Lets threads `begin` to `end` go on if all of them that are not done are at the barrier.
inline bool release(int begin, int end, State barrier) {
  int waiting = 0;
  for (int t = begin; t < end; ++t) {
    if (threads[t]->state != barrier && threads[t]->state != State::kDone) return false;
    waiting += threads[t]->state == barrier;
  }
  for (int t = begin; t < end; ++t)
    if (threads[t]->state == barrier) threads[t]->state = State::kReady;
  return waiting > 0;
}

inline void run_block(int size) {
  for (int t = 0; t < size; ++t) {
    Thread& thread = *threads[t];
    thread.state = State::kReady;
    thread.exchanges = 0;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = thread.stack.size();
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, run_thread, 0);
  }
  for (bool ran = true; ran;) {
    ran = false;
    for (int i = 0; i < size; ++i) {
      current = block_index.x % 2 ? size - 1 - i : i;
      if (self().state != State::kReady) continue;
      ran = true;
      thread_index.x = static_cast<unsigned>(current);
      swapcontext(&scheduler, &self().context);
    }
    for (int t = 0; t < size; t += 32)
      ran |= release(t, t + 32 < size ? t + 32 : size, State::kAtWarpBarrier);
    ran |= release(0, size, State::kAtBlockBarrier);
  }
  for (int t = 0; t < size; ++t)
    if (threads[t]->state != State::kDone) fail("a barrier that not all threads reach");
}

template <typename... Args>
struct Launch {
  unsigned blocks, size;
  size_t shared;
  std::tuple<Args...> args;
};

// kernel<<<blocks, threads, shared, stream>>>(args...) is compiled as kernel | Grid(...)(args...).
struct Grid {
  unsigned blocks, size;
  size_t shared;

  Grid(unsigned blocks, unsigned size, size_t shared, cudaStream_t)
      : blocks(blocks), size(size), shared(shared) {}

  template <typename... Args>
  Launch<Args...> operator()(Args... args) const {
    return {blocks, size, shared, {args...}};
  }
};

template <typename... Params, typename... Args>
void operator|(void (*function)(Params...), const Launch<Args...>& launch) {
  if (launch.blocks == 0 || launch.size == 0 || launch.size > 1024) fail("an invalid launch");
  if (launch.shared > 227 << 10) fail("more shared memory than a multiprocessor has");
  while (threads.size() < launch.size) threads.push_back(std::make_unique<Thread>());
  kernel = [&] { std::apply(function, launch.args); };
  block_size = dim3(launch.size);
  grid_size = dim3(launch.blocks);
  for (unsigned block = 0; block < launch.blocks; ++block) {
    block_index = {block, 0, 0};
    dynamic_shared_memory.assign(launch.shared / 16 + 1, {~0u, ~0u, ~0u, ~0u});
    run_block(static_cast<int>(launch.size));
  }
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size

inline void __syncthreads() { emulator::wait(emulator::State::kAtBlockBarrier); }
inline void __syncwarp() { emulator::wait(emulator::State::kAtWarpBarrier); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::exchange(value)(emulator::lane() ^ mask);
}

template <typename T, typename U>
T atomicAdd(T* address, U value) {
  const T before = *address;
  *address = before + value;
  return before;
}
template <typename T, typename U>
T atomicMin(T* address, U value) {
  const T before = *address;
  if (value < before) *address = value;
  return before;
}
template <typename T, typename U>
T atomicMax(T* address, U value) {
  const T before = *address;
  if (value > before) *address = value;
  return before;
}

using std::max;
using std::min;

inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(x));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline float __expf(float x) { return std::exp(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdividef(float a, float b) { return a / b; }
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
void __stwb(T* address, const T& value) {
  *address = value;
}

inline cudaError_t emulated_memset(void* address, int value, size_t bytes) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}
inline cudaError_t emulated_device(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t emulated_attribute(int* multiprocessors) {
  *multiprocessors = 2;
  return cudaSuccess;
}
#define cudaMemsetAsync(address, value, bytes, stream) emulated_memset(address, value, bytes)
#define cudaGetDevice(device) emulated_device(device)
#define cudaDeviceGetAttribute(value, attribute, device) emulated_attribute(value)
#define cudaFuncSetAttribute(...) cudaSuccess
#define cudaGetLastError() cudaSuccess
#define cudaGetErrorString(error) "an error"
