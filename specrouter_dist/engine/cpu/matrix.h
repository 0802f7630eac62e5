// y = x W^T over weights packed once, with an order of additions that no other row changes.
//
// Outputs lie in panels of 32, within a panel input by input. Every output is one chain of fused
// multiply-adds over the inputs in order, whatever rows are computed with it and on however many
// threads: so exact mode costs nothing here. One thread reads its panels as one stream.
#pragma once

#include <algorithm>

#include "vector.h"

namespace specrouter {

constexpr int kPanel = 2 * kLanes;
// As many as there are registers for the sums of.
#ifdef __AVX512F__
constexpr int kRowsAtOnce = 8;
#else
constexpr int kRowsAtOnce = 2;
#endif
constexpr int64_t kCachedBytes = 1 << 19;
// Weights are asked for so far ahead of their use. Measured for blocks of 8 rows, one thread: 2.9
// ms without, 2.5 at 1,024, 2.2 at 2,048, 1.9 here and at 8,192.
constexpr int64_t kAheadBytes = 6144;

struct Matrix {
  const void* panels;  // [ceil(num_outs / 32)][num_ins] cells of 32 weights
  const float* bias;   // [num_outs], or null
  int64_t num_ins;
  int64_t num_outs;

  int64_t num_panels() const { return (num_outs + kPanel - 1) / kPanel; }
};

// Two bfloat16 to a word: output i in the low half, output i + 16 in the high one, so that both
// become floats by one operation.
struct BFloat16 {
  static constexpr int kCellBytes = kPanel * 2;
  static void read(const char* cell, Vector& low, Vector& high) {
    const Words words = *reinterpret_cast<const Words*>(cell);
    const Words shifted = words << 16, masked = words & 0xffff0000u;
    std::memcpy(&low, &shifted, sizeof low);
    std::memcpy(&high, &masked, sizeof high);
  }
};

struct Float32 {
  static constexpr int kCellBytes = kPanel * 4;
  static void read(const char* cell, Vector& low, Vector& high) {
    low = load(reinterpret_cast<const float*>(cell));
    high = load(reinterpret_cast<const float*>(cell) + kLanes);
  }
};

// `Panels` neighbouring panels of `Rows` rows.
template <typename Weight, int Rows, int Panels>
inline void multiply(const Matrix& matrix, int64_t panel, const float* x, int64_t x_stride,
                     Vector (&sums)[Rows][2 * Panels]) {
  const int64_t panel_bytes = matrix.num_ins * Weight::kCellBytes;
  const char* cells = static_cast<const char*>(matrix.panels) + panel * panel_bytes;
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < 2 * Panels; ++v) sums[r][v] = Vector{};
  for (int64_t k = 0; k < matrix.num_ins; ++k) {
    Vector weights[2 * Panels];
    for (int p = 0; p < Panels; ++p) {
      const char* cell = cells + p * panel_bytes + k * Weight::kCellBytes;
      __builtin_prefetch(cell + kAheadBytes, 0, 2);
      Weight::read(cell, weights[2 * p], weights[2 * p + 1]);
    }
    for (int r = 0; r < Rows; ++r) {
      const Vector factor = broadcast(x[r * x_stride + k]);
      for (int v = 0; v < 2 * Panels; ++v) sums[r][v] += factor * weights[v];
    }
  }
}

// Writes or adds the outputs of one vector of sums.
template <bool Add>
inline void put(const Matrix& matrix, int64_t first, Vector sums, float* y) {
  const int64_t count = matrix.num_outs - first;
  if (count >= kLanes) {
    if (matrix.bias) sums += load(matrix.bias + first);
    if (Add) sums += load(y + first);
    store(y + first, sums);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    float value = sums[i];
    if (matrix.bias) value += matrix.bias[first + i];
    y[first + i] = Add ? value + y[first + i] : value;
  }
}

template <typename Weight, bool Add, int Rows, int Panels>
inline void multiply_block(const Matrix& matrix, int64_t panel, const float* x, int64_t x_stride,
                           float* y, int64_t y_stride) {
  Vector sums[Rows][2 * Panels];
  multiply<Weight, Rows, Panels>(matrix, panel, x, x_stride, sums);
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < 2 * Panels; ++v)
      put<Add>(matrix, panel * kPanel + v * kLanes, sums[r][v], y + r * y_stride);
}

template <typename Weight, bool Add, int Panels>
inline void multiply_rows(const Matrix& matrix, int64_t panel, const float* x, int64_t x_stride,
                          float* y, int64_t y_stride, int64_t num_rows) {
  switch (num_rows) {
#define ROWS(n) \
  case n:       \
    return multiply_block<Weight, Add, n, Panels>(matrix, panel, x, x_stride, y, y_stride)
    ROWS(1);
    ROWS(2);
    ROWS(3);
    ROWS(4);
    ROWS(5);
    ROWS(6);
    ROWS(7);
    ROWS(8);
#undef ROWS
  }
}

// Panels [first, stop) of y = x W^T + b, or of y += x W^T + b, for up to kRowsAtOnce rows.
template <typename Weight, bool Add>
void multiply_few(const Matrix& matrix, int64_t first, int64_t stop, const float* x,
                  int64_t x_stride, float* y, int64_t y_stride, int64_t num_rows) {
  // Few rows: two panels at once, or one sum would wait for the other.
  int64_t panel = first;
  if (num_rows <= kRowsAtOnce / 2)
    for (; panel + 1 < stop; panel += 2)
      multiply_rows<Weight, Add, 2>(matrix, panel, x, x_stride, y, y_stride, num_rows);
  for (; panel < stop; ++panel)
    multiply_rows<Weight, Add, 1>(matrix, panel, x, x_stride, y, y_stride, num_rows);
}

// The same for any number of rows. So many panels as the second cache holds are read for all of
// them; the few rows that are multiplied at once stay in the first.
template <typename Weight, bool Add>
void multiply_panels(const Matrix& matrix, int64_t first, int64_t stop, const float* x,
                     int64_t x_stride, float* y, int64_t y_stride, int64_t num_rows) {
  const int64_t panel_bytes = matrix.num_ins * Weight::kCellBytes;
  const int64_t group = std::max<int64_t>(2, kCachedBytes / panel_bytes / 2 * 2);
  for (int64_t begin = first; begin < stop; begin += group)
    for (int64_t row = 0; row < num_rows; row += kRowsAtOnce)
      multiply_few<Weight, Add>(matrix, begin, std::min(begin + group, stop), x + row * x_stride,
                                x_stride, y + row * y_stride, y_stride,
                                std::min<int64_t>(kRowsAtOnce, num_rows - row));
}

}  // namespace specrouter
