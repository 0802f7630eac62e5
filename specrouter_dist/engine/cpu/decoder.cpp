// The decoder of the Llama family on CPUs: a whole forward, or a run of drafts, as one call.
//
// Everything is float32 but, where weights are bfloat16, the cache, and where they are that or in 8
// bits, what linear layers multiply (matrix.h). Every row's arithmetic is the same whatever else is
// computed with it, so a row's result is a function of its session's tokens alone.
#include "forward.h"

using namespace specrouter;

namespace {

bool runs_here() {
  bool found = true;
#ifdef __AVX2__
  found &= __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
#ifdef __FMA__
  found &= __builtin_cpu_supports("fma") != 0;
#endif
#ifdef __AVX512F__
  found &= __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  found &= __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
#ifdef __AVX512VBMI__
  found &= __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
#endif
#ifdef __AVX512VNNI__
  found &= __builtin_cpu_supports("avx512vnni") != 0;
#endif
  return found;
}

}  // namespace

extern "C" {

// Sizes of what is handed over, and a number to be raised when calls mean something else; a library
// of others must not be called.
uint64_t specrouter_layout() {
  constexpr uint64_t kCalls = 4;
  uint64_t layout = (kCalls * 509 + kPageTokens) * 509 + kBlockIns;
  for (const size_t size :
       {sizeof(Model), sizeof(Layer), sizeof(Batch), sizeof(Part), sizeof(Draws), sizeof(Adapter)})
    layout = layout * 509 + size;
  return layout;
}

// Whether it was compiled for such a CPU.
int64_t specrouter_runs_here() { return runs_here(); }

// Of how many outputs its panels of weights are.
int64_t specrouter_panel_outs() { return kPanel; }

// Whether it has an attention for such heads.
int64_t specrouter_has_heads(int64_t head_dim) { return head_dim % kLanes == 0; }

int64_t specrouter_scratch_floats(const Model* m, int64_t num_rows) {
  return num_rows * (qkv_width(*m) + m->num_heads * m->head_dim + 2 * m->intermediate);
}

void specrouter_forward(const Model* m, const Batch* batch, int64_t num_threads) {
  const Scratch scratch = lay_out(*m, batch->scratch, batch->num_rows);
  const int size = static_cast<int>(num_threads);
  team.run(size, [&](int index) { Forward{*m, *batch, scratch, index, size}.run(); });
}

// Logits [num_rows][head.num_outs] of some rows of the residual stream.
void specrouter_logits(const Model* m, const float* hidden, const int32_t* rows, int64_t num_rows,
                       float* logits, int64_t num_threads) {
  const int size = static_cast<int>(num_threads);
  team.run(size, [&](int index) {
    const Flushing flushing;
    read_logits(*m, hidden, rows, num_rows, logits, index, size);
  });
}

// What dice pick of every row of logits [num_rows][width], for consecutive positions.
void specrouter_best(const float* logits, int64_t num_rows, int64_t width, const Dice* dice,
                     int64_t first_position, int32_t* best) {
  for (int64_t r = 0; r < num_rows; ++r)
    best[r] = dice->best(logits + r * width, width, first_position + r);
}

// Feeds all sessions' rows and draws behind them. Drafts are fed from `ids`, which they overwrite.
void specrouter_draw(const Model* m, const Batch* batch, const Draws* draws, int32_t* ids,
                     float* logits, int64_t num_threads) {
  const int size = static_cast<int>(num_threads);
  team.run(size, [&](int index) {
    const Flushing flushing;
    draw_all(*m, *batch, draws, ids, logits, index, size);
  });
}
}
