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

// As many queries as there are registers for.
#ifdef __AVX512F__
constexpr int kQueriesAtOnce = 4;
#else
constexpr int kQueriesAtOnce = 1;
#endif

struct Query {
  const float* query;  // scaled
  int64_t num_keys;    // up to its own position
  float* result;
};

// softmax(q k^T) v of queries of one head; `weights` has room for `stride` keys of each.
//
// Keys behind a query's own position have no weight in it: what is added then is 0.
template <int Vectors, int Queries>
void attend(const Part& part, const Cache& cache, int64_t head, const Query* queries,
            float* weights, int64_t stride) {
  const int64_t offset = head * cache.head_dim, row_floats = 2 * cache.half();
  const int64_t most_keys = queries[Queries - 1].num_keys;
  Vector q[Queries][Vectors], highest[Queries], totals[Queries] = {}, mixed[Queries][Vectors] = {};
  for (int n = 0; n < Queries; ++n) {
    highest[n] = broadcast(-INFINITY);
    for (int v = 0; v < Vectors; ++v) q[n][v] = load(queries[n].query + v * kLanes);
  }
  for (int64_t first = 0; first < most_keys; first += kLanes) {
    const float* keys = cache.row(part, first) + offset;
    const int64_t count = std::min<int64_t>(kLanes, most_keys - first);
    Vector products[Queries][kLanes] = {};
    for (int64_t i = 0; i < count; ++i, keys += row_floats)
      for (int v = 0; v < Vectors; ++v) {
        const Vector key = load(keys + v * kLanes);
        for (int n = 0; n < Queries; ++n) products[n][i] += q[n][v] * key;
      }
    for (int n = 0; n < Queries; ++n) {
      const Ints is_seen = kLane < static_cast<int32_t>(queries[n].num_keys - first);
      const Vector scores = is_seen ? sums(products[n]) : broadcast(-INFINITY);
      store(weights + n * stride + first, scores);
      highest[n] = scores > highest[n] ? scores : highest[n];
    }
  }
  for (int n = 0; n < Queries; ++n) {
    const float most = greatest(highest[n]);
    for (int64_t i = 0; i < most_keys; i += kLanes) {
      const Vector powers = exp(load(weights + n * stride + i) - most);
      store(weights + n * stride + i, powers);
      totals[n] += powers;
    }
  }
  for (int64_t first = 0; first < most_keys; first += kPageTokens) {
    const float* values = cache.row(part, first) + cache.half() + offset;
    const int64_t count = std::min(kPageTokens, most_keys - first);
    for (int64_t i = 0; i < count; ++i, values += row_floats)
      for (int v = 0; v < Vectors; ++v) {
        const Vector value = load(values + v * kLanes);
        for (int n = 0; n < Queries; ++n)
          mixed[n][v] += broadcast(weights[n * stride + first + i]) * value;
      }
  }
  for (int n = 0; n < Queries; ++n) {
    const float scale = 1.0f / sum(totals[n]);
    for (int v = 0; v < Vectors; ++v) store(queries[n].result + v * kLanes, mixed[n][v] * scale);
  }
}

using Attend = void (*)(const Part&, const Cache&, int64_t, const Query*, float*, int64_t);

// For the head sizes that there are, else null.
template <int Queries>
inline Attend attend_of(int64_t head_dim) {
  switch (head_dim) {
#define HEAD(vectors)   \
  case vectors* kLanes: \
    return attend<vectors, Queries>
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
