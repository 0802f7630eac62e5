// Rows of inputs as whole numbers.
//
// CPUs multiply and add twice as many 16-bit whole numbers in a cycle as floats, and exactly.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

namespace specrouter {

// So many inputs share a scale; their products with weights are added up in 32 bits.
constexpr int64_t kBlockIns = 64;
constexpr int64_t kBlockWords = kBlockIns / 2;

// Where rows of floats lie, so many floats apart.
struct FloatRows {
  const float* x;
  int64_t stride;

  FloatRows from(int64_t row) const { return {x + row * stride, stride}; }
};

// Rows of blocks, whose last is filled up with zeros; two inputs to a word.
struct FixedRows {
  const int32_t* words;  // [num_rows][num_blocks][kBlockWords]
  const float* scales;   // [num_rows][num_blocks]
  int64_t num_blocks;

  FixedRows from(int64_t row) const {
    return {block(row, 0), scales + row * num_blocks, num_blocks};
  }
  const int32_t* block(int64_t row, int64_t number) const {
    return words + (row * num_blocks + number) * kBlockWords;
  }
  float scale(int64_t row, int64_t number) const { return scales[row * num_blocks + number]; }
};

// A block as whole numbers up to `limit`; returns what they are multiples of: no number where an
// input is none.
inline float fix(const float* x, float limit, int32_t* words) {
  Ints most{};
  for (int64_t i = 0; i < kBlockIns; i += kLanes) {
    // Of absolute values the bits are in the same order, and those of what is no number come last.
    const Ints bits = bits_as<Ints>(load(x + i)) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  const float greatest = bits_as<float>(specrouter::greatest(most));
  const bool is_usual = greatest > 1e-30f && greatest < INFINITY;
  const float factor = is_usual ? limit / greatest : 0.0f;
  for (int64_t i = 0; i < kBlockIns; i += kLanes) {
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
    const Shorts whole = __builtin_convertvector(
        bits_as<Ints>(multiply_add(load(x + i), broadcast(factor), broadcast(12582912.0f))),
        Shorts);
    std::memcpy(words + i / 2, &whole, sizeof whole);
  }
  return greatest / limit;
}

// Valid until the next call of the same thread.
inline FixedRows fix_rows(FloatRows in, int64_t num_rows, int64_t num_ins, float limit) {
  static thread_local std::vector<int32_t> words;
  static thread_local std::vector<float> scales;
  const int64_t num_blocks = (num_ins + kBlockIns - 1) / kBlockIns;
  words.resize(std::max<size_t>(words.size(), num_rows * num_blocks * kBlockWords));
  scales.resize(std::max<size_t>(scales.size(), num_rows * num_blocks));
  for (int64_t r = 0; r < num_rows; ++r)
    for (int64_t b = 0; b < num_blocks; ++b) {
      const int64_t at = r * num_blocks + b, left = num_ins - b * kBlockIns;
      const float* x = in.from(r).x + b * kBlockIns;
      float padded[kBlockIns] = {};
      if (left < kBlockIns) x = static_cast<float*>(std::memcpy(padded, x, left * sizeof(float)));
      scales[at] = fix(x, limit, words.data() + at * kBlockWords);
    }
  return {words.data(), scales.data(), num_blocks};
}

}  // namespace specrouter
