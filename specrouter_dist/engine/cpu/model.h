// What a call is given: a model's weights and a batch of rows, as library.py lays them out.
#pragma once

#include <algorithm>

#include "attention.h"
#include "matrix.h"
#include "noise.h"

namespace specrouter {

// One fused linear layer's x A^T B^T, float32; without panels where it is not adapted.
struct LowRank {
  Matrix down, up;
};

struct Adapter {
  LowRank qkv, out, gate_up, down;
};

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
  int64_t is_bfloat16;   // embedding and cache; else float32
  float norm_eps;
  const void* embedding;   // [ids][hidden]
  const float* rotations;  // [positions][head_dim / 2] pairs of cosine and sine
  const float* last_norm;
  Matrix head;
  const Layer* layers;
};

struct Batch {
  int64_t num_rows, num_parts;
  const int32_t* ids;
  const Part* parts;
  void* cache;  // [layers][cache_rows * 2 * num_kv_heads * head_dim] in pages
  int64_t cache_rows;
  float* hidden;   // [num_rows][hidden]: the residual stream, and the result
  float* scratch;  // specrouter_scratch_floats()
};

// What is drawn of one session.
struct Draws {
  int64_t num_picks;       // behind its last rows
  int64_t num_drafts;      // and one behind the other after the last pick
  int64_t first_position;  // of the first of them
  Dice dice;
  const int32_t* stop_ids;  // nothing is wanted behind one of them
  int64_t num_stop_ids;
  int32_t* tokens;  // [num_picks + num_drafts], the result

  bool stops(int32_t token) const {
    return std::find(stop_ids, stop_ids + num_stop_ids, token) != stop_ids + num_stop_ids;
  }
};

inline int64_t qkv_width(const Model& m) { return (m.num_heads + 2 * m.num_kv_heads) * m.head_dim; }

}  // namespace specrouter
