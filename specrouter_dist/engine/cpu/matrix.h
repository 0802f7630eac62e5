// y = x W^T over weights packed once, with an order of additions that no other row changes.
//
// Outputs lie in panels of two vectors, within a panel input by input. Every output is one chain of
// additions over the inputs in order (of floats; of blocks whose sums are exact), whatever rows are
// computed with it and on however many threads: so exact mode costs nothing here. One thread reads
// its panels as one stream.
#pragma once

#include <algorithm>

#include "fixed.h"

namespace specrouter {

constexpr int kPanel = 2 * kLanes;
// As many as there are registers for the sums of, two vectors of each.
constexpr int kRowsAtOnce = kRegisters == 32 ? 8 : 6;
template <typename Number>
constexpr int64_t kCellBytes = kPanel * sizeof(Number);
constexpr int64_t kCachedBytes = 1 << 19;
// Outputs of one row that are computed side by side, and of two or three rows: with fewer a sum
// would wait for the one before.
constexpr int kMostOuts = 64, kSomeOuts = 32;
// Weights are asked for so far ahead of their use: the best of 1 to 12 KiB, for one row and many.
constexpr int64_t kAheadBytes = kRegisters == 32 ? 2048 : 4096;

// Weights are float32, or whole numbers times a scale of their own for each output. Those of
// `bfloat16` that are at least a 32nd of their output's largest are such numbers of 16 bits, times
// a power of two; the others, and all in 8 bits, are rounded (packing.py).
struct Matrix {
  const void* panels;   // [ceil(num_outs / kPanel)] of [num_ins] cells of kPanel floats, or of
                        // [ceil(num_ins / 2)] cells of kPanel pairs
  const float* bias;    // [num_outs], or null
  const float* scales;  // [num_panels * kPanel] of whole numbers; null: floats
  int64_t num_ins;
  int64_t num_outs;
  float input_limit;     // whole inputs up to this one have products that 32 bits hold
  int32_t weight_bytes;  // of whole numbers: 2 or 1

  int64_t num_panels() const { return (num_outs + kPanel - 1) / kPanel; }
  int64_t num_cells() const { return scales ? (num_ins + 1) / 2 : num_ins; }
  template <typename Number>
  const char* cells(int64_t panel) const {
    return static_cast<const char*>(panels) + panel * num_cells() * kCellBytes<Number>;
  }
};

// The same cell of neighbouring panels; `ahead`: how far from it what is needed later lies.
template <typename Number, typename Numbers, int Vectors>
inline void read(const char* cell, int64_t panel_bytes, int64_t ahead,
                 Numbers (&weights)[Vectors]) {
  for (int v = 0; v < Vectors; ++v) {
    const char* half = cell + v / 2 * panel_bytes + v % 2 * (kLanes * sizeof(Number));
    if (v % 2 == 0) __builtin_prefetch(half + ahead, 0, 2);
    weights[v] = load(reinterpret_cast<const Number*>(half));
  }
}

// From a cell of a panel: behind the panel's end the next is being read beside it, and the first of
// those that come then is as many further as are read at once.
template <typename Number, int Vectors>
inline int64_t bytes_ahead(int64_t cell, int64_t num_cells) {
  constexpr int64_t kAheadCells = kAheadBytes / kCellBytes<Number>;
  const int64_t beside = (Vectors / 2 - 1) * num_cells * kCellBytes<Number>;
  return kAheadBytes + (cell + kAheadCells < num_cells ? 0 : beside);
}

// `Vectors` of outputs of `Rows` rows, from a panel on. `Number`: what a weight is, or a pair.
template <typename Number, int Rows, int Vectors>
inline void multiply(const Matrix& matrix, int64_t panel, FloatRows in,
                     Vector (&sums)[Rows][Vectors]) {
  const char* cells = matrix.cells<Number>(panel);
  for (int64_t k = 0; k < matrix.num_ins; ++k) {
    Vector weights[Vectors];
    read<Number>(cells + k * kCellBytes<Number>, matrix.num_ins * kCellBytes<Number>,
                 bytes_ahead<Number, Vectors>(k, matrix.num_ins), weights);
    for (int r = 0; r < Rows; ++r) {
      const Vector factor = broadcast(in.x[r * in.stride + k]);
      for (int v = 0; v < Vectors; ++v) sums[r][v] = multiply_add(factor, weights[v], sums[r][v]);
    }
  }
}

template <typename Number, int Rows, int Vectors>
inline void multiply(const Matrix& matrix, int64_t panel, FixedRows in,
                     Vector (&sums)[Rows][Vectors]) {
  const int64_t num_cells = matrix.num_cells();
  const char* cell = matrix.cells<Number>(panel);
  for (int64_t b = 0; b < in.num_blocks; ++b) {
    Ints products[Rows][Vectors];
    clear(products);
    // Sums stay in memory meanwhile: there are not enough registers for both.
    asm("" : "+m"(sums));
    const int64_t count = std::min(kBlockWords, num_cells - b * kBlockWords);
    for (int64_t i = 0; i < count; ++i, cell += kCellBytes<Number>) {
      Ints weights[Vectors];
      read<Number>(cell, num_cells * kCellBytes<Number>,
                   bytes_ahead<Number, Vectors>(b * kBlockWords + i, num_cells), weights);
      for (int r = 0; r < Rows; ++r) {
        const Ints factor = in.block(r, b)[i] - Ints{};
        for (int v = 0; v < Vectors; ++v) add_products(products[r][v], weights[v], factor);
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vectors; ++v)
        sums[r][v] = multiply_add(__builtin_convertvector(products[r][v], Vector),
                                  broadcast(in.scale(r, b)), sums[r][v]);
  }
  for (int v = 0; v < Vectors; ++v) {
    const Vector scales = load(matrix.scales + panel * kPanel + v * kLanes);
    for (int r = 0; r < Rows; ++r) sums[r][v] *= scales;
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

template <bool Add, typename Number, int Rows, int Panels, typename Inputs>
inline void multiply_block(const Matrix& matrix, int64_t panel, Inputs in, float* y,
                           int64_t y_stride) {
  Vector sums[Rows][2 * Panels];
  clear(sums);
  multiply<Number>(matrix, panel, in, sums);
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < 2 * Panels; ++v)
      put<Add>(matrix, panel * kPanel + v * kLanes, sums[r][v], y + r * y_stride);
}

// Panels [first, stop) of y = x W^T + b, or of y += x W^T + b, for up to kRowsAtOnce rows.
template <bool Add, typename Number, int Rows = kRowsAtOnce, typename Inputs>
void multiply_few(const Matrix& matrix, int64_t first, int64_t stop, Inputs in, float* y,
                  int64_t y_stride, int64_t num_rows) {
  if constexpr (Rows > 1)
    if (num_rows < Rows)
      return multiply_few<Add, Number, Rows - 1>(matrix, first, stop, in, y, y_stride, num_rows);
  constexpr int kPanels = (Rows == 1 ? kMostOuts : Rows <= 3 ? kSomeOuts : kPanel) / kPanel;
  int64_t panel = first;
  if constexpr (kPanels > 1)
    for (; panel + kPanels <= stop; panel += kPanels)
      multiply_block<Add, Number, Rows, kPanels>(matrix, panel, in, y, y_stride);
  for (; panel < stop; ++panel)
    multiply_block<Add, Number, Rows, 1>(matrix, panel, in, y, y_stride);
}

// The same for any number of rows. So many panels as the second cache holds are read for all of
// them; the few rows that are multiplied at once stay in the first.
template <bool Add, typename Number, typename Inputs>
void multiply_panels(const Matrix& matrix, int64_t first, int64_t stop, Inputs in, float* y,
                     int64_t y_stride, int64_t num_rows) {
  const int64_t panel_bytes = matrix.num_cells() * kCellBytes<Number>;
  constexpr int64_t kMostPanels = kMostOuts / kPanel;
  const int64_t group =
      std::max(kMostPanels, kCachedBytes / panel_bytes / kMostPanels * kMostPanels);
  for (int64_t begin = first; begin < stop; begin += group)
    for (int64_t row = 0; row < num_rows; row += kRowsAtOnce)
      multiply_few<Add, Number>(matrix, begin, std::min(begin + group, stop), in.from(row),
                                y + row * y_stride, y_stride,
                                std::min<int64_t>(kRowsAtOnce, num_rows - row));
}

}  // namespace specrouter
