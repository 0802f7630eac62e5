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

// One layer of the cache, page by page, in floats or bfloat16. A page holds, head by head, its keys
// and then its values: keys sixteen positions at a time, component by component, so that the
// products of a query with sixteen keys are the lanes of one sum; values position by position.
template <typename Number>
struct Cache {
  Number* pages;
  int64_t num_kv_heads;
  int64_t head_dim;

  Number* page(const Part& part, int64_t position, int64_t head) const {
    const int64_t number = part.pages[position / kPageTokens];
    return pages + (number * num_kv_heads + head) * 2 * kPageTokens * head_dim;
  }
  // Component 0 of the key at a position; the next lies kLanes behind.
  Number* key(const Part& part, int64_t position, int64_t head) const {
    const int64_t at = position % kPageTokens;
    return page(part, position, head) + at / kLanes * kLanes * head_dim + at % kLanes;
  }
  Number* value(const Part& part, int64_t position, int64_t head) const {
    return page(part, position, head) + (kPageTokens + position % kPageTokens) * head_dim;
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

// q k^T of `Blocks` times sixteen keys that lie one behind the other; every product is one chain of
// additions over the components.
template <int Queries, int Blocks, typename Number>
inline void score(const Query* queries, const Number* keys, int64_t head_dim, int64_t first,
                  float* scores, int64_t stride, Vector* highest) {
  Vector products[Queries][Blocks] = {};
  for (int64_t d = 0; d < head_dim; ++d)
    for (int b = 0; b < Blocks; ++b) {
      const Vector components = load(keys + (b * head_dim + d) * kLanes);
      for (int n = 0; n < Queries; ++n)
        products[n][b] += broadcast(queries[n].query[d]) * components;
    }
  for (int n = 0; n < Queries; ++n)
    for (int b = 0; b < Blocks; ++b) {
      const int64_t begin = first + b * kLanes;
      const Ints is_seen = kLane < static_cast<int32_t>(queries[n].num_keys - begin);
      const Vector seen = is_seen ? products[n][b] : broadcast(-INFINITY);
      store(scores + n * stride + begin, seen);
      highest[n] = seen > highest[n] ? seen : highest[n];
    }
}

// softmax(q k^T) v of queries of one head; `weights` has room for `stride` keys of each.
//
// Keys behind a query's own position have no weight in it: what is added then is 0.
template <int Vectors, int Queries, typename Number>
void attend(const Part& part, const Cache<Number>& cache, int64_t head, const Query* queries,
            float* weights, int64_t stride) {
  // Sums wait for one another unless there are several.
  constexpr int kBlocks = Queries == 1 ? 4 : 2;
  const int64_t most_keys = queries[Queries - 1].num_keys;
  Vector highest[Queries], totals[Queries] = {}, mixed[Queries][Vectors] = {};
  for (int n = 0; n < Queries; ++n) highest[n] = broadcast(-INFINITY);
  for (int64_t first = 0; first < most_keys;) {
    const int64_t step = most_keys - first >= kBlocks * kLanes ? kBlocks : 1;
    const auto run = step == 1 ? score<Queries, 1, Number> : score<Queries, kBlocks, Number>;
    run(queries, cache.key(part, first, head), cache.head_dim, first, weights, stride, highest);
    first += step * kLanes;
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
    const Number* values = cache.value(part, first, head);
    const int64_t count = std::min(kPageTokens, most_keys - first);
    for (int64_t i = 0; i < count; ++i, values += cache.head_dim)
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

template <typename Number>
using Attend = void (*)(const Part&, const Cache<Number>&, int64_t, const Query*, float*, int64_t);

// For the head sizes that there are, else null.
template <int Queries, typename Number>
inline Attend<Number> attend_of(int64_t head_dim) {
  switch (head_dim) {
#define HEAD(vectors)   \
  case vectors* kLanes: \
    return attend<vectors, Queries, Number>
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
