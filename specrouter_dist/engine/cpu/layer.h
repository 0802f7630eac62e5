// The parts of a layer, each over a share of the rows, heads or outputs.
#pragma once

#include <cmath>
#include <vector>

#include "model.h"

namespace specrouter {

// Where a forward keeps what one operation hands to the next, row behind row.
struct Scratch {
  float *normed, *qkv, *mixed, *wide;
};

inline Scratch lay_out(const Model& m, float* scratch, int64_t num_rows) {
  float* qkv = scratch + num_rows * m.hidden;
  float* mixed = qkv + num_rows * qkv_width(m);
  return {scratch, qkv, mixed, mixed + num_rows * m.num_heads * m.head_dim};
}

struct Range {
  int64_t first, stop;
};

inline Range share(int64_t count, int index, int size) {
  return {count * index / size, count * (index + 1) / size};
}

// Of rows the first thread has most, since of outputs, whose shares are of whole panels, it has
// least.
inline Range share_of_rows(int64_t num_rows, int index, int size) {
  return share(num_rows, size - 1 - index, size);
}

inline float bfloat16_at(const void* values, int64_t i) {
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(values)[i]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void embed(const Model& m, const Batch& batch, Range rows) {
  for (int64_t r = rows.first; r < rows.stop; ++r)
    for (int64_t i = 0; i < m.hidden; ++i) {
      const int64_t at = batch.ids[r] * m.hidden + i;
      batch.hidden[r * m.hidden + i] =
          m.is_bfloat16 ? bfloat16_at(m.embedding, at) : static_cast<const float*>(m.embedding)[at];
    }
}

// x / sqrt(mean(x^2) + eps) * weight of one row.
inline void rms_norm(const float* x, const float* weight, int64_t width, float eps, float* result) {
  Vector squares{};
  int64_t done = 0;
  for (; done + kLanes <= width; done += kLanes) squares += load(x + done) * load(x + done);
  float total = sum(squares);
  for (; done < width; ++done) total += x[done] * x[done];
  const float scale = 1.0f / std::sqrt(total / width + eps);
  for (int64_t i = 0; i < width; ++i) result[i] = x[i] * scale * weight[i];
}

// `index` says which rows; null: as they lie.
inline void norm_rows(const Model& m, const float* rows, const float* weight, float* result,
                      Range which, const int32_t* index = nullptr) {
  for (int64_t r = which.first; r < which.stop; ++r)
    rms_norm(rows + (index ? index[r] : r) * m.hidden, weight, m.hidden, m.norm_eps,
             result + r * m.hidden);
}

// What a linear layer reads and writes; rows lie so many floats apart.
struct Rows {
  const float* x;
  int64_t x_stride;
  float* y;
  int64_t y_stride;
};

// Panels of y = x W^T + b, or of y += x W^T + b.
template <bool Add>
inline void project(const Matrix& matrix, Rows rows, int64_t num_rows, Range panels) {
  const auto run = [&](auto in) {
    multiply_panels<Add>(matrix, panels.first, panels.stop, in, rows.y, rows.y_stride, num_rows);
  };
  const FloatRows in{rows.x, rows.x_stride};
  if (matrix.scales)
    run(fix_rows(in, num_rows, matrix.num_ins, matrix.input_limit));
  else
    run(in);
}

// The same panels of what adapters add to the rows of their sessions.
inline void adapt(const Batch& batch, int64_t layer, LowRank Adapter::* which, Rows rows,
                  Range panels) {
  static thread_local std::vector<float> narrow;
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    if (!part.adapter) continue;
    const LowRank& term = part.adapter[layer].*which;
    if (!term.down.panels) continue;
    const int64_t rank = term.down.num_outs;
    narrow.resize(std::max<size_t>(narrow.size(), part.num_rows * rank));
    const float* x = rows.x + part.first_row * rows.x_stride;
    project<false>(term.down, {x, rows.x_stride, narrow.data(), rank}, part.num_rows,
                   {0, term.down.num_panels()});
    float* y = rows.y + part.first_row * rows.y_stride;
    project<true>(term.up, {narrow.data(), rank, y, rows.y_stride}, part.num_rows, panels);
  }
}

// Rotates queries and keys, which lie as adjacent pairs, and stores keys and values.
inline void place(const Model& m, const Layer& layer, const Part& part, const Cache& cache,
                  int64_t index, float* qkv) {
  const int64_t position = part.start + index;
  const float* rotation = m.rotations + position * m.head_dim;
  const int64_t num_rotated = m.num_heads + m.num_kv_heads;
  for (int64_t head = 0; head < num_rotated; ++head) {
    float* pairs = qkv + head * m.head_dim;
    if (layer.qk_norm)
      rms_norm(pairs, layer.qk_norm + head * m.head_dim, m.head_dim, m.norm_eps, pairs);
    for (int64_t i = 0; i < m.head_dim; i += 2) {
      const float a = pairs[i], b = pairs[i + 1], cosine = rotation[i], sine = rotation[i + 1];
      pairs[i] = a * cosine - b * sine;
      pairs[i + 1] = a * sine + b * cosine;
    }
  }
  const float* keys = qkv + m.num_heads * m.head_dim;
  const float* values = keys + m.num_kv_heads * m.head_dim;
  for (int64_t head = 0; head < m.num_kv_heads; ++head) {
    const int64_t at = head * m.head_dim;
    float* key = cache.key(part, position, head);
    for (int64_t i = 0; i < m.head_dim; ++i) key[i * kLanes] = keys[at + i];
    std::memcpy(cache.value(part, position, head), values + at, m.head_dim * sizeof(float));
  }
}

inline void place_rows(const Model& m, const Layer& layer, const Batch& batch, const Cache& cache,
                       float* qkv, Range rows) {
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    const int64_t first = std::max(rows.first, part.first_row);
    const int64_t stop = std::min(rows.stop, part.first_row + part.num_rows);
    for (int64_t r = first; r < stop; ++r)
      place(m, layer, part, cache, r - part.first_row, qkv + r * qkv_width(m));
  }
}

// All rows, some of the heads: queries of a few rows by one head of keys at a time.
inline void attend_heads(const Model& m, const Batch& batch, const Cache& cache,
                         const Scratch& scratch, int index, int size) {
  static thread_local std::vector<float> weights;
  const Attend several = attend_of<kQueriesAtOnce>(m.head_dim), one = attend_of<1>(m.head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(m.head_dim));
  const int64_t group = m.num_heads / m.num_kv_heads, width = qkv_width(m);
  int64_t task = 0;
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    const int64_t stride = (part.start + part.num_rows + kLanes - 1) / kLanes * kLanes;
    weights.resize(std::max<size_t>(weights.size(), stride * kQueriesAtOnce));
    for (int64_t block = 0; block < part.num_rows; block += kRowsAtOnce)
      for (int64_t head = 0; head < m.num_kv_heads; ++head) {
        if (task++ % size != index) continue;
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
            several(part, cache, head, queries, weights.data(), stride);
            count = 0;
          }
        for (int n = 0; n < count; ++n) one(part, cache, head, queries + n, weights.data(), stride);
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
