// Causal attention over a paged cache of keys and values, row by row.
//
// A row's result depends on its own query and on the positions up to its own: on no other row.
#pragma once

#include <algorithm>
#include <bit>
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
// and then its values: keys a vector of positions at a time, component by component, so that the
// products of a query with these keys are the lanes of one sum; values position by position.
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

// As many queries at once, with two sums each and more if they are fewer, as there are registers
// for beside what is added.
constexpr int kQueriesAtOnce = kRegisters == 32 ? 8 : 6;
constexpr int kSumsAtOnce = kRegisters == 32 ? 18 : 12;

struct Query {
  const float* query;  // scaled
  int64_t num_keys;    // up to its own position
  float* result;
};

// Asks for what lies `count` numbers behind `from`.
template <typename Number>
inline void fetch(const Number* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(Number)) __builtin_prefetch(from + i, 0, 2);
}

// q k^T of `Blocks` vectors of keys that lie one behind the other; every product is one chain of
// additions over the components. What lies at `next` is asked for meanwhile.
template <int Queries, int Blocks, typename Number>
inline void score(const Query* queries, const Number* keys, const Number* next, int64_t head_dim,
                  int64_t first, float* scores, int64_t stride, Vector* highest) {
  Vector products[Queries][Blocks];
  clear(products);
  for (int64_t d = 0; d < head_dim; ++d) {
    fetch(next + d * Blocks * kLanes, Blocks * kLanes);
    for (int b = 0; b < Blocks; ++b) {
      const Vector components = load(keys + (b * head_dim + d) * kLanes);
      for (int n = 0; n < Queries; ++n)
        products[n][b] = multiply_add(broadcast(queries[n].query[d]), components, products[n][b]);
    }
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

// `Vectors` of components, from one on, of the sums of values by weights, times a scale
// of each query. The next page is asked for meanwhile.
template <int Queries, int Vectors, typename Number>
void mix(const Part& part, const Cache<Number>& cache, int64_t head, const Query* queries,
         int64_t component, const float* weights, int64_t stride, const Vector* scales) {
  const int64_t most_keys = queries[Queries - 1].num_keys;
  Vector mixed[Queries][Vectors];
  clear(mixed);
  for (int64_t first = 0; first < most_keys; first += kPageTokens) {
    const int64_t count = std::min(kPageTokens, most_keys - first);
    const Number* values = cache.value(part, first, head) + component;
    const int64_t following = std::min(first + kPageTokens, most_keys - 1);
    const Number* next = cache.value(part, following, head) + component;
    for (int64_t i = 0; i < count; ++i) {
      fetch(next + i * cache.head_dim, Vectors * kLanes);
      for (int v = 0; v < Vectors; ++v) {
        const Vector value = load(values + i * cache.head_dim + v * kLanes);
        for (int n = 0; n < Queries; ++n)
          mixed[n][v] =
              multiply_add(broadcast(weights[n * stride + first + i]), value, mixed[n][v]);
      }
    }
  }
  for (int n = 0; n < Queries; ++n)
    for (int v = 0; v < Vectors; ++v)
      store(queries[n].result + component + v * kLanes, mixed[n][v] * scales[n]);
}

// softmax(q k^T) v of queries of one head; `weights` has room for `stride` keys of each.
//
// Keys behind a query's own position have no weight in it: what is added then is 0, values being
// numbers.
template <int Queries, typename Number>
void attend(const Part& part, const Cache<Number>& cache, int64_t head, const Query* queries,
            float* weights, int64_t stride) {
  // Sums wait for one another unless there are several. Whole steps make a page; of the last one
  // some positions may be empty yet: they are not seen.
  constexpr int kBlocks =
      std::min<int>(kPageTokens / kLanes, std::bit_floor(unsigned{kSumsAtOnce / Queries}));
  constexpr int kMostVectors = std::min(4, kSumsAtOnce / Queries);
  const int64_t most_keys = queries[Queries - 1].num_keys;
  Vector highest[Queries], scales[Queries];
  for (int n = 0; n < Queries; ++n) highest[n] = broadcast(-INFINITY);
  for (int64_t first = 0; first < most_keys; first += kBlocks * kLanes) {
    const int64_t following = first + kBlocks * kLanes;
    const Number* next =
        following < most_keys ? cache.key(part, following, head) : cache.value(part, 0, head);
    score<Queries, kBlocks>(queries, cache.key(part, first, head), next, cache.head_dim, first,
                            weights, stride, highest);
  }
  for (int n = 0; n < Queries; ++n) {
    const float most = greatest(highest[n]);
    Vector total{};
    for (int64_t i = 0; i < most_keys; i += kLanes) {
      const Vector powers = exp(load(weights + n * stride + i) - most);
      store(weights + n * stride + i, powers);
      total += powers;
    }
    scales[n] = broadcast(1.0f / sum(total));
  }
  for (int64_t at = 0; at < cache.head_dim;) {
    const int64_t vectors = std::min<int64_t>((cache.head_dim - at) / kLanes, kMostVectors);
    switch (vectors) {
#define VECTORS(n)                                                              \
  case n:                                                                       \
    if constexpr (n <= kMostVectors)                                            \
      mix<Queries, n>(part, cache, head, queries, at, weights, stride, scales); \
    break
      VECTORS(1);
      VECTORS(2);
      VECTORS(3);
      VECTORS(4);
#undef VECTORS
    }
    at += vectors * kLanes;
  }
}

// Of up to kQueriesAtOnce queries.
template <typename Number, int Queries = kQueriesAtOnce>
inline void attend_some(const Part& part, const Cache<Number>& cache, int64_t head,
                        const Query* queries, int count, float* weights, int64_t stride) {
  if (count == Queries)
    attend<Queries>(part, cache, head, queries, weights, stride);
  else if constexpr (Queries > 1)
    attend_some<Number, Queries - 1>(part, cache, head, queries, count, weights, stride);
}

}  // namespace specrouter
