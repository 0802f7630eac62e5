// The shared dice (speculation/noise.py), where they can still win.
//
// A token is the best of s + g, g = -log(-log u), over thousands of ids. Logarithms of all would
// take twenty times as long as the rest. But s + g > b needs 1 - u < e^(s - b), which the bits of u
// tell without one, so g is computed for the few ids that pass.
#pragma once

#include <cmath>

#include "vector.h"

namespace specrouter {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u, kPositionStep = 0xD1342543DE82EF95u;

typedef uint64_t Longs __attribute__((vector_size(kLanes * sizeof(uint64_t))));

// The splitmix64 finaliser, of a number or of each of several.
template <typename T>
inline T mix(T value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

inline uint64_t row_key(uint64_t seed, uint64_t position) {
  return mix(mix(seed + kGolden) + position * kPositionStep);
}

// g of 64 random bits, as float32 of a float64 (gumbel_from_bits).
inline float gumbel(uint64_t bits) {
  const double u = (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
  return static_cast<float>(-std::log(-std::log(u)));
}

struct Best {
  float score;
  int64_t id;

  void take(float other, int64_t other_id) {
    if (other > score || (other == score && other_id < id)) score = other, id = other_id;
  }
};

// The lowest id with the highest scale * logit.
inline Best best_of(const float* logits, int64_t width, float scale) {
  Vector highest = broadcast(-INFINITY);
  Ints ids{};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vector scores = load(logits + i) * scale;
    const Ints is_better = scores > highest;
    highest = is_better ? scores : highest;
    ids = is_better ? kLane + static_cast<int32_t>(i) : ids;
  }
  Best best{-INFINITY, 0};
  for (int l = 0; l < kLanes; ++l) best.take(highest[l], ids[l]);
  for (; i < width; ++i) best.take(logits[i] * scale, i);
  return best;
}

// The lowest id with the highest scale * logit + g of its row.
inline int32_t best_with_noise(const float* logits, int64_t width, float scale, uint64_t key) {
  const Best likeliest = best_of(logits, width, scale);
  // Rounded before the sum, as where the two are arrays.
  const auto add = [&](int64_t id) {
    const float scaled = static_cast<float>(static_cast<double>(logits[id]) * scale);
    return scaled + gumbel(mix(key + static_cast<uint64_t>(id) * kGolden));
  };
  Best best{add(likeliest.id), likeliest.id};
  Longs steps = key + __builtin_convertvector(kLane, Longs) * kGolden;
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes, steps += kLanes * kGolden) {
    // 1 - u rounded down, against e^(s - b) rounded up; e^0 and more let everything pass.
    const Words below = __builtin_convertvector(~mix(steps) >> 32, Words);
    const Vector rest = __builtin_convertvector(below, Vector) * (0x1p-32f * (1 - 1e-6f));
    const Vector gap = load(logits + i) * scale - best.score;
    const Vector chance = exp(gap > 0.0f ? Vector{} : gap) * (1 + 1e-5f);
    const Ints passes = rest <= chance;
    for (unsigned bits = bits_of(passes); bits; bits &= bits - 1) {
      const int64_t id = i + __builtin_ctz(bits);
      best.take(add(id), id);
    }
  }
  for (; i < width; ++i) best.take(add(i), i);
  return static_cast<int32_t>(best.id);
}

// How a session's tokens are drawn.
struct Dice {
  float scale;  // the inverse temperature
  int32_t has_noise;
  uint64_t seed;

  int32_t best(const float* logits, int64_t width, int64_t position) const {
    if (!has_noise) return static_cast<int32_t>(best_of(logits, width, scale).id);
    return best_with_noise(logits, width, scale, row_key(seed, static_cast<uint64_t>(position)));
  }
};

}  // namespace specrouter
