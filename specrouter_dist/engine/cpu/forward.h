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
    embed(m, batch, share(batch.num_rows, index, size));
    team.meet(index, size);
    for (int64_t i = 0; i < m.num_layers; ++i) {
      const Layer& layer = m.layers[i];
      if (layer.attention_norm && m.is_bfloat16) attention<BFloat16>(i, layer);
      if (layer.attention_norm && !m.is_bfloat16) attention<float>(i, layer);
      if (layer.mlp_norm) mlp(i, layer);
    }
  }

  // `Number`: of the cache.
  template <typename Number>
  void attention(int64_t i, const Layer& layer) const {
    const int64_t layer_numbers = batch.cache_rows * 2 * m.num_kv_heads * m.head_dim;
    const Cache<Number> cache{static_cast<Number*>(batch.cache) + i * layer_numbers, m.num_kv_heads,
                              m.head_dim};
    const FloatRows normed = normed_rows(m, batch.hidden, layer.attention_norm, batch.num_rows);
    linear<false>(i, layer.qkv, &Adapter::qkv, normed, {scratch.qkv, qkv_width(m)},
                  {share(layer.qkv.num_panels(), index, size)});
    team.meet(index, size);
    const Range heads = share(m.num_kv_heads, index, size);
    place_heads(m, layer, batch, cache, scratch.qkv, heads);
    // Whose heads are as many as the others' goes on with them without waiting.
    const bool is_even = m.num_kv_heads % size == 0;
    if (!is_even) team.meet(index, size);
    attend_heads(m, batch, cache, scratch, is_even ? &heads : nullptr, index, size);
    team.meet(index, size);
    linear<true>(i, layer.out, &Adapter::out, {scratch.mixed, m.num_heads * m.head_dim},
                 {batch.hidden, m.hidden}, {share(layer.out.num_panels(), index, size)});
    team.meet(index, size);
  }

  void mlp(int64_t i, const Layer& layer) const {
    const FloatRows normed = normed_rows(m, batch.hidden, layer.mlp_norm, batch.num_rows);
    const int64_t half = m.intermediate / kPanel, width = 2 * m.intermediate;
    const Range gates = share(half, index, size);
    linear<false>(i, layer.gate_up, &Adapter::gate_up, normed, {scratch.wide, width},
                  {gates, {gates.first + half, gates.stop + half}});
    gate(m, scratch.wide, batch.num_rows, gates);
    team.meet(index, size);
    linear<true>(i, layer.down, &Adapter::down, {scratch.wide, width}, {batch.hidden, m.hidden},
                 {share(layer.down.num_panels(), index, size)});
    team.meet(index, size);
  }

  template <bool Add, size_t N>
  void linear(int64_t i, const Matrix& matrix, LowRank Adapter::* term, FloatRows in, Outputs out,
              const Range (&panels)[N]) const {
    project<Add>(matrix, in, out, batch.num_rows, panels);
    adapt(batch, i, term, in, out, panels);
  }
};

// Logits of some rows of the residual stream, by all threads of a team.
inline void read_logits(const Model& m, const float* hidden, const int32_t* rows, int64_t num_rows,
                        float* logits, int index, int size) {
  const FloatRows normed = normed_rows(m, hidden, m.last_norm, num_rows, rows);
  project<false>(m.head, normed, {logits, m.head.num_outs}, num_rows,
                 {share(m.head.num_panels(), index, size)});
  team.meet(index, size);
}

// A row of a forward behind which a session's token is drawn.
struct Pick {
  int64_t part, row, token;
};

inline void draw(const Model& m, const Batch& batch, const Draws* draws,
                 const std::vector<Pick>& picks, float* logits, int index, int size) {
  std::vector<int32_t> rows;
  for (const Pick& pick : picks) rows.push_back(static_cast<int32_t>(pick.row));
  const int64_t count = static_cast<int64_t>(rows.size()), width = m.head.num_outs;
  read_logits(m, batch.hidden, rows.data(), count, logits, index, size);
  for (int64_t i = index; i < count; i += size) {
    const Draws& of = draws[picks[i].part];
    const int64_t token = picks[i].token;
    of.tokens[token] = of.dice.best(logits + i * width, width, of.first_position + token);
  }
  team.meet(index, size);
}

// The picks behind each session's last rows, and then drafts, one behind the other, until each
// session has its number or a stop; those with most drafts come first.
inline void draw_all(const Model& m, Batch batch, const Draws* draws, int32_t* ids, float* logits,
                     int index, int size) {
  const Scratch scratch = lay_out(m, batch.scratch, batch.num_rows);
  std::vector<Part> parts(batch.parts, batch.parts + batch.num_parts);
  batch.parts = parts.data();
  std::vector<Pick> picks;
  for (int64_t p = 0; p < batch.num_parts; ++p)
    for (int64_t i = 0; i < draws[p].num_picks; ++i)
      picks.push_back({p, parts[p].first_row + parts[p].num_rows - draws[p].num_picks + i, i});
  std::vector<char> has_stopped(parts.size());
  for (int64_t step = 0, num_going = batch.num_parts; num_going; ++step) {
    Forward{m, batch, scratch, index, size}.run();
    draw(m, batch, draws, picks, logits, index, size);
    while (batch.num_parts && draws[batch.num_parts - 1].num_drafts <= step) --batch.num_parts;
    batch.num_rows = num_going = batch.num_parts;
    picks.clear();
    for (int64_t p = 0; p < batch.num_parts; ++p) {
      const int64_t next = draws[p].num_picks + step;
      const int32_t token = draws[p].tokens[next - 1];
      has_stopped[p] |= draws[p].stops(token);
      num_going -= has_stopped[p];
      parts[p].start += parts[p].num_rows;
      parts[p].first_row = p;
      parts[p].num_rows = 1;
      picks.push_back({p, p, next});
      if (index == 0) ids[p] = token;
    }
    team.meet(index, size);
  }
}

}  // namespace specrouter
