// The forward of a decoder of the Llama family on CPUs, as one call.
//
// Everything is float32 but the weights. Every row's arithmetic is the same whatever else is
// computed with it, so a row's result is a function of its session's tokens alone.
#include <cmath>

#include "attention.h"
#include "matrix.h"
#include "team.h"

using namespace specrouter;

namespace {

// One fused linear layer's x A^T B^T, float32; without panels where it is not adapted.
struct LowRank {
  Matrix down, up;
};

}  // namespace

struct specrouter::Adapter {
  LowRank qkv, out, gate_up, down;
};

namespace {

struct Layer {
  const float* attention_norm;  // null: the layer has no attention
  const float* qk_norm;         // [num_heads + num_kv_heads, head_dim], or null
  Matrix qkv, out;
  const float* mlp_norm;  // null: the layer has no MLP
  Matrix gate_up, down;
};

struct Model {
  int64_t num_layers, hidden, num_heads, num_kv_heads, head_dim;
  int64_t intermediate;  // of gates, and of ups behind them: whole panels
  int64_t is_bfloat16;   // the weights; else float32
  float norm_eps;
  const void* embedding;   // [ids][hidden], in the weights' dtype
  const float* rotations;  // [positions][head_dim / 2] pairs of cosine and sine
  const float* last_norm;
  Matrix head;
  const Layer* layers;
};

struct Batch {
  int64_t num_rows, num_parts;
  const int32_t* ids;
  const Part* parts;
  float* cache;  // [layers][cache_rows][2 * num_kv_heads * head_dim]
  int64_t cache_rows;
  float* hidden;   // [num_rows][hidden]: the residual stream, and the result
  float* scratch;  // specrouter_scratch_floats()
};

// How one session's drafts are drawn: the best of scale * logits + noise.
struct Draft {
  int64_t num_tokens;
  float scale;
  const float* const* noise;  // a row of each token, or null
  int32_t* tokens;            // [num_tokens], the result
};

Team team;

// Where a forward keeps what one operation hands to the next, row behind row.
struct Scratch {
  float *normed, *qkv, *mixed, *wide;
};

int64_t qkv_width(const Model& m) { return (m.num_heads + 2 * m.num_kv_heads) * m.head_dim; }

Scratch lay_out(const Model& m, float* scratch, int64_t num_rows) {
  float* qkv = scratch + num_rows * m.hidden;
  float* mixed = qkv + num_rows * qkv_width(m);
  return {scratch, qkv, mixed, mixed + num_rows * m.num_heads * m.head_dim};
}

struct Range {
  int64_t first, stop;
};

Range share(int64_t count, int index, int size) {
  return {count * index / size, count * (index + 1) / size};
}

float bfloat16_at(const void* values, int64_t i) {
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(values)[i]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void embed(const Model& m, const Batch& batch, Range rows) {
  for (int64_t r = rows.first; r < rows.stop; ++r)
    for (int64_t i = 0; i < m.hidden; ++i) {
      const int64_t at = batch.ids[r] * m.hidden + i;
      batch.hidden[r * m.hidden + i] = m.is_bfloat16 ? bfloat16_at(m.embedding, at)
                                                     : static_cast<const float*>(m.embedding)[at];
    }
}

// x / sqrt(mean(x^2) + eps) * weight of one row.
void rms_norm(const float* x, const float* weight, int64_t width, float eps, float* result) {
  float lanes[kLanes] = {};
  for (int64_t i = 0; i < width; ++i) lanes[i % kLanes] += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum(load(lanes)) / width + eps);
  for (int64_t i = 0; i < width; ++i) result[i] = x[i] * scale * weight[i];
}

// `index` says which rows; null: as they lie.
void norm_rows(const Model& m, const float* rows, const float* weight, float* result, Range which,
               const int32_t* index = nullptr) {
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
void project(bool is_bfloat16, const Matrix& matrix, Rows rows, int64_t num_rows, Range panels) {
  const auto run = is_bfloat16 ? multiply_panels<BFloat16, Add> : multiply_panels<Float32, Add>;
  run(matrix, panels.first, panels.stop, rows.x, rows.x_stride, rows.y, rows.y_stride, num_rows);
}

// The same panels of what adapters add to the rows of their sessions.
void adapt(const Batch& batch, int64_t layer, LowRank Adapter::*which, Rows rows, Range panels) {
  static thread_local std::vector<float> narrow;
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    if (!part.adapter) continue;
    const LowRank& term = part.adapter[layer].*which;
    if (!term.down.panels) continue;
    const int64_t rank = term.down.num_outs;
    narrow.resize(std::max<size_t>(narrow.size(), part.num_rows * rank));
    const float* x = rows.x + part.first_row * rows.x_stride;
    project<false>(false, term.down, {x, rows.x_stride, narrow.data(), rank}, part.num_rows,
                   {0, term.down.num_panels()});
    float* y = rows.y + part.first_row * rows.y_stride;
    project<true>(false, term.up, {narrow.data(), rank, y, rows.y_stride}, part.num_rows, panels);
  }
}

// Rotates queries and keys, which lie as adjacent pairs, and stores keys and values.
void place(const Model& m, const Layer& layer, const Part& part, const Cache& cache, int64_t index,
           float* qkv) {
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
  const float* fresh = qkv + m.num_heads * m.head_dim;
  std::memcpy(cache.row(part, position), fresh, 2 * cache.half() * sizeof(float));
}

void place_rows(const Model& m, const Layer& layer, const Batch& batch, const Cache& cache,
                float* qkv, Range rows) {
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    const int64_t first = std::max(rows.first, part.first_row);
    const int64_t stop = std::min(rows.stop, part.first_row + part.num_rows);
    for (int64_t r = first; r < stop; ++r)
      place(m, layer, part, cache, r - part.first_row, qkv + r * qkv_width(m));
  }
}

// Heads [first, stop) of all rows, a group of queries by its keys' head.
void attend_heads(const Model& m, const Batch& batch, const Cache& cache, const Scratch& scratch,
                  int index, int size) {
  static thread_local std::vector<float> weights;
  const Attend attend = attend_of(m.head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(m.head_dim));
  const int64_t group = m.num_heads / m.num_kv_heads, width = qkv_width(m);
  int64_t task = 0;
  for (int64_t p = 0; p < batch.num_parts; ++p) {
    const Part& part = batch.parts[p];
    weights.resize(std::max<size_t>(weights.size(), part.start + part.num_rows + kLanes));
    for (int64_t block = 0; block < part.num_rows; block += kRowsAtOnce)
      for (int64_t head = 0; head < m.num_kv_heads; ++head) {
        if (task++ % size != index) continue;
        const int64_t stop = std::min<int64_t>(block + kRowsAtOnce, part.num_rows);
        for (int64_t i = block; i < stop; ++i)
          for (int64_t g = 0; g < group; ++g) {
            const int64_t row = part.first_row + i, at = (head * group + g) * m.head_dim;
            float* query = scratch.qkv + row * width + at;
            for (int64_t d = 0; d < m.head_dim; ++d) query[d] *= scale;
            attend(part, cache, head, query, part.start + i + 1, weights.data(),
                   scratch.mixed + row * m.num_heads * m.head_dim + at);
          }
      }
  }
}

// silu(gate) * up, in the place of the gate.
void gate(const Model& m, float* wide, int64_t num_rows, Range panels) {
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

// The threads of a forward, each at the same place of it.
struct Forward {
  const Model& m;
  const Batch& batch;
  Scratch scratch;
  int index, size;

  void run() const {
    const Flushing flushing;
    const Range rows = share(batch.num_rows, index, size);
    embed(m, batch, rows);
    const int64_t layer_floats = batch.cache_rows * 2 * m.num_kv_heads * m.head_dim;
    for (int64_t i = 0; i < m.num_layers; ++i) {
      const Layer& layer = m.layers[i];
      const Cache cache{batch.cache + i * layer_floats, m.num_kv_heads, m.head_dim};
      if (layer.attention_norm) attention(i, layer, cache, rows);
      if (layer.mlp_norm) mlp(i, layer, rows);
    }
  }

  void attention(int64_t i, const Layer& layer, const Cache& cache, Range rows) const {
    norm_rows(m, batch.hidden, layer.attention_norm, scratch.normed, rows);
    team.meet();
    const Rows in{scratch.normed, m.hidden, scratch.qkv, qkv_width(m)};
    linear<false>(i, layer.qkv, &Adapter::qkv, in, share(layer.qkv.num_panels(), index, size));
    team.meet();
    place_rows(m, layer, batch, cache, scratch.qkv, rows);
    team.meet();
    attend_heads(m, batch, cache, scratch, index, size);
    team.meet();
    const Rows out{scratch.mixed, m.num_heads * m.head_dim, batch.hidden, m.hidden};
    linear<true>(i, layer.out, &Adapter::out, out, share(layer.out.num_panels(), index, size));
    team.meet();
  }

  void mlp(int64_t i, const Layer& layer, Range rows) const {
    norm_rows(m, batch.hidden, layer.mlp_norm, scratch.normed, rows);
    team.meet();
    const Rows in{scratch.normed, m.hidden, scratch.wide, 2 * m.intermediate};
    const int64_t half = m.intermediate / kPanel;
    const Range gates = share(half, index, size);
    linear<false>(i, layer.gate_up, &Adapter::gate_up, in, gates);
    linear<false>(i, layer.gate_up, &Adapter::gate_up, in, {gates.first + half, gates.stop + half});
    gate(m, scratch.wide, batch.num_rows, gates);
    team.meet();
    const Rows out{scratch.wide, 2 * m.intermediate, batch.hidden, m.hidden};
    linear<true>(i, layer.down, &Adapter::down, out, share(layer.down.num_panels(), index, size));
    team.meet();
  }

  template <bool Add>
  void linear(int64_t i, const Matrix& matrix, LowRank Adapter::*term, Rows rows,
              Range panels) const {
    project<Add>(m.is_bfloat16, matrix, rows, batch.num_rows, panels);
    adapt(batch, i, term, rows, panels);
  }
};

// Logits of some rows of the residual stream, by all threads of a team.
void read_logits(const Model& m, const float* hidden, const int32_t* rows, int64_t num_rows,
                 float* normed, float* logits, int index, int size) {
  norm_rows(m, hidden, m.last_norm, normed, share(num_rows, index, size), rows);
  team.meet();
  const Rows in{normed, m.hidden, logits, m.head.num_outs};
  project<false>(m.is_bfloat16, m.head, in, num_rows, share(m.head.num_panels(), index, size));
  team.meet();
}

// The lowest id with the highest score.
int32_t best_of(const float* logits, int64_t width, float scale, const float* noise) {
  const Ints lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Vector highest = broadcast(-INFINITY);
  Ints ids{};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    Vector scores = load(logits + i) * scale;
    if (noise) scores += load(noise + i);
    const Ints is_better = scores > highest;
    highest = is_better ? scores : highest;
    ids = is_better ? lane + static_cast<int32_t>(i) : ids;
  }
  float most = -INFINITY;
  int32_t best = 0;
  for (int l = 0; l < kLanes; ++l)
    if (highest[l] > most || (highest[l] == most && ids[l] < best)) most = highest[l], best = ids[l];
  for (; i < width; ++i) {
    float score = logits[i] * scale;
    if (noise) score += noise[i];
    if (score > most) most = score, best = static_cast<int32_t>(i);
  }
  return best;
}

// A token behind each session's rows, and then one behind that, until each has its number; those
// with most come first.
void draft_all(const Model& m, Batch batch, const Draft* drafts, int32_t* ids, float* logits,
               int index, int size) {
  const Scratch scratch = lay_out(m, batch.scratch, batch.num_rows);
  std::vector<Part> parts(batch.parts, batch.parts + batch.num_parts);
  std::vector<int32_t> last;
  for (const Part& part : parts) last.push_back(part.first_row + part.num_rows - 1);
  batch.parts = parts.data();
  for (int64_t step = 0; batch.num_parts; ++step) {
    Forward{m, batch, scratch, index, size}.run();
    read_logits(m, batch.hidden, last.data(), batch.num_parts, scratch.normed, logits, index, size);
    for (int64_t p = index; p < batch.num_parts; p += size) {
      const Draft& draft = drafts[p];
      const float* noise = draft.noise ? draft.noise[step] : nullptr;
      ids[p] = draft.tokens[step] =
          best_of(logits + p * m.head.num_outs, m.head.num_outs, draft.scale, noise);
    }
    team.meet();
    while (batch.num_parts && drafts[batch.num_parts - 1].num_tokens == step + 1) --batch.num_parts;
    batch.num_rows = batch.num_parts;
    for (int64_t p = 0; p < batch.num_parts; ++p) {
      parts[p].start += parts[p].num_rows;
      parts[p].first_row = last[p] = p;
      parts[p].num_rows = 1;
    }
  }
}

bool runs_here() {
#ifdef __AVX512F__
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")) return false;
#elif defined(__AVX2__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
#endif
  return true;
}

}  // namespace

extern "C" {

// Of these files; a library of others must not be called.
int64_t specrouter_version() { return 1; }

// Whether it was compiled for such a CPU, and has an attention for such heads.
int64_t specrouter_runs(int64_t head_dim) { return runs_here() && attend_of(head_dim) != nullptr; }

int64_t specrouter_scratch_floats(const Model* m, int64_t num_rows) {
  return num_rows * (m->hidden + qkv_width(*m) + m->num_heads * m->head_dim + 2 * m->intermediate);
}

void specrouter_forward(const Model* m, const Batch* batch, int64_t num_threads) {
  const Scratch scratch = lay_out(*m, batch->scratch, batch->num_rows);
  const int size = static_cast<int>(num_threads);
  team.run(size, [&](int index) { Forward{*m, *batch, scratch, index, size}.run(); });
}

// Logits [num_rows][head.num_outs] of some rows of the residual stream; `normed` has room for as
// many.
void specrouter_logits(const Model* m, const float* hidden, const int32_t* rows, int64_t num_rows,
                       float* normed, float* logits, int64_t num_threads) {
  const int size = static_cast<int>(num_threads);
  team.run(size, [&](int index) {
    const Flushing flushing;
    read_logits(*m, hidden, rows, num_rows, normed, logits, index, size);
  });
}

// The best id of every row of logits [num_rows][width], with noise of as many rows or null.
void specrouter_best(const float* logits, int64_t num_rows, int64_t width, float scale,
                     const float* noise, int32_t* best) {
  for (int64_t r = 0; r < num_rows; ++r)
    best[r] = best_of(logits + r * width, width, scale, noise ? noise + r * width : nullptr);
}

// Draws behind all sessions' rows. What is drawn overwrites `ids`, those that are fed.
void specrouter_draft(const Model* m, const Batch* batch, const Draft* drafts, int32_t* ids,
                      float* logits, int64_t num_threads) {
  const int size = static_cast<int>(num_threads);
  team.run(size, [&](int index) {
    const Flushing flushing;
    draft_all(*m, *batch, drafts, ids, logits, index, size);
  });
}
}
