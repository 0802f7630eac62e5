// A forward by a team of threads, and what is read off its result.
#pragma once

#include "layer.h"
#include "team.h"

namespace specrouter {

inline Team team;

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
  void linear(int64_t i, const Matrix& matrix, LowRank Adapter::* term, Rows rows,
              Range panels) const {
    project<Add>(m.is_bfloat16, matrix, rows, batch.num_rows, panels);
    adapt(batch, i, term, rows, panels);
  }
};

// Logits of some rows of the residual stream, by all threads of a team.
inline void read_logits(const Model& m, const float* hidden, const int32_t* rows, int64_t num_rows,
                        float* normed, float* logits, int index, int size) {
  norm_rows(m, hidden, m.last_norm, normed, share(num_rows, index, size), rows);
  team.meet();
  const Rows in{normed, m.hidden, logits, m.head.num_outs};
  project<false>(m.is_bfloat16, m.head, in, num_rows, share(m.head.num_panels(), index, size));
  team.meet();
}

// The lowest id with the highest score.
inline int32_t best_of(const float* logits, int64_t width, float scale, const float* noise) {
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
    if (highest[l] > most || (highest[l] == most && ids[l] < best))
      most = highest[l], best = ids[l];
  for (; i < width; ++i) {
    float score = logits[i] * scale;
    if (noise) score += noise[i];
    if (score > most) most = score, best = static_cast<int32_t>(i);
  }
  return best;
}

// A token behind each session's rows, and then one behind that, until each has its number; those
// with most come first.
inline void draft_all(const Model& m, Batch batch, const Draft* drafts, int32_t* ids, float* logits,
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

}  // namespace specrouter
