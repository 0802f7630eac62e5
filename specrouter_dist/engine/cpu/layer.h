// The parts of a layer, each over a share of the rows, heads or outputs.
#pragma once

#include <cmath>
#include <vector>

#include "model.h"

namespace specrouter {

// Where a forward keeps what one operation hands to the next, row behind row.
struct Scratch {
  float *qkv, *mixed, *wide;
};

inline Scratch lay_out(const Model& m, float* scratch, int64_t num_rows) {
  float* mixed = scratch + num_rows * qkv_width(m);
  return {scratch, mixed, mixed + num_rows * m.num_heads * m.head_dim};
}

struct Range {
  int64_t first, stop;
};

inline Range share(int64_t count, int index, int size) {
  return {count * index / size, count * (index + 1) / size};
}

inline void embed(const Model& m, const Batch& batch, Range rows) {
  for (int64_t r = rows.first; r < rows.stop; ++r)
    for (int64_t i = 0; i < m.hidden; ++i) {
      const int64_t at = batch.ids[r] * m.hidden + i;
      batch.hidden[r * m.hidden + i] =
          m.is_bfloat16 ? static_cast<float>(static_cast<const BFloat16*>(m.embedding)[at])
                        : static_cast<const float*>(m.embedding)[at];
    }
}

// x / sqrt(mean(x^2) + eps) * weight of one row.
inline void rms_norm(const float* x, const float* weight, int64_t width, float eps, float* result) {
  Vector squares{};
  int64_t done = 0;
  for (; done + kLanes <= width; done += kLanes)
    squares = multiply_add(load(x + done), load(x + done), squares);
  float total = sum(squares);
  for (; done < width; ++done) total += x[done] * x[done];
  const float scale = 1.0f / std::sqrt(total / width + eps);
  for (int64_t i = 0; i < width; ++i) result[i] = x[i] * scale * weight[i];
}

// Rows of the residual stream as a layer reads them; `index` says which, null: as they lie. Every
// thread makes them for itself, which takes less time than to wait for another. Valid until the
// next call of the same thread.
inline FloatRows normed_rows(const Model& m, const float* hidden, const float* weight,
                             int64_t num_rows, const int32_t* index = nullptr) {
  static thread_local std::vector<float> normed;
  normed.resize(std::max<size_t>(normed.size(), num_rows * m.hidden));
  for (int64_t r = 0; r < num_rows; ++r)
    rms_norm(hidden + (index ? index[r] : r) * m.hidden, weight, m.hidden, m.norm_eps,
             normed.data() + r * m.hidden);
  return {normed.data(), m.hidden};
}

// Where a linear layer writes; rows lie so many floats apart.
struct Outputs {
  float* y;
  int64_t stride;
};

// Panels of y = x W^T + b, or of y += x W^T + b.
template <bool Add, size_t N>
inline void project(const Matrix& matrix, FloatRows in, Outputs out, int64_t num_rows,
                    const Range (&panels)[N]) {
  const auto run = [&](auto number, auto inputs) {
    for (const Range& range : panels)
      multiply_panels<Add, decltype(number)>(matrix, range.first, range.stop, inputs, out.y,
                                             out.stride, num_rows);
  };
  if (!matrix.scales) return run(float{}, in);
  const FixedRows fixed = fix_rows(in, num_rows, matrix.num_ins, matrix.input_limit);
  if (matrix.weight_bytes == 1)
    run(BytePair{}, fixed);
  else
    run(int32_t{}, fixed);
}

// The same panels of what adapters add to the rows of their sessions.
template <size_t N>
inline void adapt(const Batch& batch, int64_t layer, LowRank Adapter::* which, FloatRows in,
                  Outputs out, const Range (&panels)[N]) {
  static thread_local std::vector<float> narrow;
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    if (!part.adapter) continue;
    const LowRank& term = part.adapter[layer].*which;
    if (!term.down.panels) continue;
    const int64_t rank = term.down.num_outs;
    narrow.resize(std::max<size_t>(narrow.size(), part.num_rows * rank));
    project<false>(term.down, in.from(part.first_row), {narrow.data(), rank}, part.num_rows,
                   {{0, term.down.num_panels()}});
    project<true>(term.up, {narrow.data(), rank}, {out.y + part.first_row * out.stride, out.stride},
                  part.num_rows, panels);
  }
}

// Rotates the queries and keys of some heads of keys, which lie as adjacent pairs, and stores keys
// and values.
template <typename Number>
void place(const Model& m, const Layer& layer, const Cache<Number>& cache, const Part& part,
           int64_t position, float* qkv, Range heads) {
  const float* rotation = m.rotations + position * m.head_dim;
  const int64_t group = m.num_heads / m.num_kv_heads;
  const auto rotate = [&](int64_t first, int64_t stop) {
    for (int64_t head = first; head < stop; ++head) {
      float* pairs = qkv + head * m.head_dim;
      if (layer.qk_norm)
        rms_norm(pairs, layer.qk_norm + head * m.head_dim, m.head_dim, m.norm_eps, pairs);
      for (int64_t i = 0; i < m.head_dim; i += 2) {
        const float a = pairs[i], b = pairs[i + 1], cosine = rotation[i], sine = rotation[i + 1];
        pairs[i] = a * cosine - b * sine;
        pairs[i + 1] = a * sine + b * cosine;
      }
    }
  };
  rotate(heads.first * group, heads.stop * group);
  rotate(m.num_heads + heads.first, m.num_heads + heads.stop);
  const float* keys = qkv + m.num_heads * m.head_dim;
  const float* values = keys + m.num_kv_heads * m.head_dim;
  for (int64_t head = heads.first; head < heads.stop; ++head) {
    const int64_t at = head * m.head_dim;
    Number *key = cache.key(part, position, head), *value = cache.value(part, position, head);
    for (int64_t i = 0; i < m.head_dim; ++i) {
      key[i * kLanes] = Number(keys[at + i]);
      value[i] = Number(values[at + i]);
    }
  }
}

template <typename Number>
void place_heads(const Model& m, const Layer& layer, const Batch& batch, const Cache<Number>& cache,
                 float* qkv, Range heads) {
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    for (int64_t i = 0; i < part.num_rows; ++i)
      place(m, layer, cache, part, part.start + i, qkv + (part.first_row + i) * qkv_width(m),
            heads);
  }
}

// Queries of a few rows by one head of keys at a time: a thread's own heads of all rows, or, where
// `heads` is null, every so many of all.
template <typename Number>
void attend_heads(const Model& m, const Batch& batch, const Cache<Number>& cache,
                  const Scratch& scratch, const Range* heads, int index, int size) {
  static thread_local std::vector<float> weights;
  const float scale = 1.0f / std::sqrt(static_cast<float>(m.head_dim));
  const int64_t group = m.num_heads / m.num_kv_heads, width = qkv_width(m);
  int64_t task = 0;
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    const int64_t stride =
        (part.start + part.num_rows + kPageTokens - 1) / kPageTokens * kPageTokens;
    weights.resize(std::max<size_t>(weights.size(), stride * kQueriesAtOnce));
    for (int64_t block = 0; block < part.num_rows; block += kRowsAtOnce)
      for (int64_t head = 0; head < m.num_kv_heads; ++head) {
        if (heads ? head < heads->first || head >= heads->stop : task++ % size != index) continue;
        Query queries[kQueriesAtOnce];
        int count = 0;
        const int64_t stop = std::min<int64_t>(block + kRowsAtOnce, part.num_rows);
        for (int64_t i = block; i < stop; ++i)
          for (int64_t g = 0; g < group; ++g) {
            const int64_t row = part.first_row + i, at = (head * group + g) * m.head_dim;
            float* query = scratch.qkv + row * width + at;
            for (int64_t d = 0; d < m.head_dim; ++d) query[d] *= scale;
            queries[count++] = {query, part.start + i + 1,
                                scratch.mixed + row * m.num_heads * m.head_dim + at};
            if (count < kQueriesAtOnce) continue;
            attend_some(part, cache, head, queries, count, weights.data(), stride);
            count = 0;
          }
        attend_some(part, cache, head, queries, count, weights.data(), stride);
      }
  }
}

// silu(gate) * up, in the place of the gate.
inline void gate(const Model& m, float* wide, int64_t num_rows, Range panels) {
  const int64_t first = panels.first * kPanel, stop = panels.stop * kPanel;
  for (int64_t r = 0; r < num_rows; ++r) {
    float* gates = wide + r * 2 * m.intermediate;
    const float* ups = gates + m.intermediate;
    for (int64_t i = first; i < stop; i += kLanes) {
      const Vector g = load(gates + i);
      store(gates + i, g / (1.0f + exp(-g)) * load(ups + i));
    }
  }
}

}  // namespace specrouter
