// csrc/common/tensor_core.cuh in C++, from the tables of the PTX ISA: which lane has which element.
#pragma once

#include "common/group_access.cuh"

namespace vdm {

// ldmatrix.x4: lanes 8 i to 8 i + 7 have the addresses of the rows of matrix i.
inline void load_matrix(uint32_t (&a)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulator::fail("ldmatrix at an address of no 16 bytes");
  const auto row_of = emulator::exchange(row);
  for (int i = 0; i < 4; ++i)
    std::memcpy(&a[i],
                static_cast<const char*>(row_of(8 * i + emulator::lane() / 4)) + emulator::lane() % 4 * 4, 4);
}

// mma.m16n8k<K>, with element(lane of the warp, register) of the factors.
template <int K, typename A, typename B>
void multiply_add_elements(float (&d)[4], const A& a, const B& b) {
  for (int i = 0; i < 4; ++i) {
    const int row = emulator::lane() / 4 + i / 2 * 8, column = emulator::lane() % 4 * 2 + i % 2;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += a(row, k) * b(k, column);
    d[i] += sum;
  }
}

template <typename T>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto told = emulator::exchange(std::array<uint32_t, 6>{a[0], a[1], a[2], a[3], b0, b1});
  const auto half_of = [&](int lane, int word, int half) {
    const uint16_t bits = static_cast<uint16_t>(told(lane)[word] >> 16 * half);
    T x;
    std::memcpy(&x, &bits, sizeof(x));
    return to_float(x);
  };
  multiply_add_elements<16>(
      d, [&](int row, int k) { return half_of(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2); },
      [&](int k, int column) { return half_of(column * 4 + k % 8 / 2, 4 + k / 8, k % 2); });
}

inline float round_to_tf32(float x) {
  return __uint_as_float((__float_as_uint(x) + 0x1000u) & ~0x1FFFu);  // half away from zero
}

inline void multiply_add_tf32(float (&d)[4], const float (&a)[4], float b0, float b1) {
  for (const float x : {a[0], a[1], a[2], a[3], b0, b1})
    if (!std::isnan(x) && __float_as_uint(x) & 0x1FFFu) emulator::fail("more bits than TensorFloat-32 has");
  const auto told = emulator::exchange(std::array<float, 6>{a[0], a[1], a[2], a[3], b0, b1});
  multiply_add_elements<8>(
      d, [&](int row, int k) { return told(row % 8 * 4 + k % 4)[row / 8 + k / 4 * 2]; },
      [&](int k, int column) { return told(column * 4 + k % 4)[4 + k / 4]; });
}

}  // namespace vdm
