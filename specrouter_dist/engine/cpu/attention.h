// Causal attention over a paged cache of keys and values, row by row.
//
// A row's result depends on its own query and on the positions up to its own: on no other row.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

namespace specrouter {

constexpr int64_t kPageTokens = 64;

struct Adapter;

// One session's rows of a forward: consecutive ones, at consecutive positions.
struct Part {
  int64_t first_row;
  int64_t num_rows;
  int64_t start;           // position of the first
  const int32_t* pages;    // of the cache, in order of position
  const Adapter* adapter;  // of each layer, or null
};

// One layer of the cache: for each position its keys, all heads, then its values.
struct Cache {
  float* rows;
  int64_t num_kv_heads;
  int64_t head_dim;

  int64_t half() const { return num_kv_heads * head_dim; }
  float* row(const Part& part, int64_t position) const {
    const int64_t page = part.pages[position / kPageTokens];
    return rows + (page * kPageTokens + position % kPageTokens) * 2 * half();
  }
};

// softmax(q k^T / sqrt(head_dim)) v of one query; `weights` has room for a whole context.
template <int Vectors>
void attend(const Part& part, const Cache& cache, int64_t head, const float* query,
            int64_t num_keys, float* weights, float* result) {
  const int64_t offset = head * cache.head_dim, row_floats = 2 * cache.half();
  Vector q[Vectors];
  for (int v = 0; v < Vectors; ++v) q[v] = load(query + v * kLanes);
  Vector highest = broadcast(-INFINITY);
  for (int64_t first = 0; first < num_keys; first += kLanes) {
    const float* keys = cache.row(part, first) + offset;
    const int64_t count = std::min<int64_t>(kLanes, num_keys - first);
    Vector products[kLanes] = {};
    for (int64_t i = 0; i < count; ++i, keys += row_floats) {
      products[i] = q[0] * load(keys);
      for (int v = 1; v < Vectors; ++v) products[i] += q[v] * load(keys + v * kLanes);
    }
    const Vector scores =
        kLane < static_cast<int32_t>(count) ? sums(products) : broadcast(-INFINITY);
    store(weights + first, scores);
    highest = scores > highest ? scores : highest;
  }
  float most = highest[0];
  for (int i = 1; i < kLanes; ++i) most = std::max(most, highest[i]);
  Vector totals{};
  for (int64_t i = 0; i < num_keys; i += kLanes) {
    const Vector powers = exp(load(weights + i) - most);
    store(weights + i, powers);
    totals += powers;
  }
  Vector mixed[Vectors] = {};
  for (int64_t first = 0; first < num_keys; first += kPageTokens) {
    const float* values = cache.row(part, first) + cache.half() + offset;
    const int64_t count = std::min(kPageTokens, num_keys - first);
    for (int64_t i = 0; i < count; ++i, values += row_floats) {
      __builtin_prefetch(values + 4 * row_floats);
      const Vector weight = broadcast(weights[first + i]);
      for (int v = 0; v < Vectors; ++v) mixed[v] += weight * load(values + v * kLanes);
    }
  }
  const float scale = 1.0f / sum(totals);
  for (int v = 0; v < Vectors; ++v) store(result + v * kLanes, mixed[v] * scale);
}

using Attend = void (*)(const Part&, const Cache&, int64_t, const float*, int64_t, float*, float*);

// For the head sizes that there are, else null.
inline Attend attend_of(int64_t head_dim) {
  switch (head_dim) {
#define HEAD(vectors)   \
  case vectors* kLanes: \
    return attend<vectors>
    HEAD(1);
    HEAD(2);
    HEAD(3);
    HEAD(4);
    HEAD(5);
    HEAD(6);
    HEAD(7);
    HEAD(8);
    HEAD(16);
#undef HEAD
    default:
      return nullptr;
  }
}

}  // namespace specrouter
