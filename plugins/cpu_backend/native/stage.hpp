// A range of a decoder's layers with its weights, blocks and all the room that a step needs.

#pragma once

#include <vector>

#include "attention.hpp"
#include "histrio_cpu.h"
#include "kernels.hpp"
#include "linear.hpp"
#include "memory.hpp"

namespace hc {

// A vector of a checkpoint; null where it has none.
using Vector = const float *;

struct Mlp {
  Linear gate, up, down;
};

struct Layer {
  hc_layer_config config{};
  Vector attention_norm = nullptr, attention_norm_bias = nullptr, q_norm = nullptr, k_norm = nullptr, post_attention_norm = nullptr;
  Vector sinks = nullptr, mlp_norm = nullptr, mlp_norm_bias = nullptr, post_mlp_norm = nullptr;
  Linear q, k, v, o, router;
  std::vector<Mlp> mlps; // one, or one for each expert
  KvCache cache;

  bool has(hc_layer_flags flag) const { return (config.flags & flag) != 0; }
};

struct RopeTable {
  std::vector<float> inverse_frequencies;
  float scale = 1.0f;
  Array<float> cos, sin; // [max_tokens, frequencies] of the present step
};

class Stage {
 public:
  Stage(const hc_stage_config &config, const Kernels &kernels);

  void set_layer(int layer, const hc_layer_config &config);
  void set_rope(int table, const float *inverse_frequencies, int count, float scale);
  void put(int layer, int tensor, int expert, int format, int storage, int64_t rows, int64_t columns, const std::byte *data);
  const std::byte *packed(int layer, int tensor, int expert);
  void ready();
  void allocate(int num_blocks, int block_size);
  void copy_blocks(int count, const int32_t *from, const int32_t *to);
  void step(const hc_batch &batch);

  int64_t weight_bytes() const { return weight_bytes_; }
  int64_t kv_bytes_per_token() const;

 private:
  void check(const hc_batch &batch) const;
  void put_vector(int layer, int tensor, int expert, int format, int64_t count, const std::byte *data);
  Vector &vector_of(int layer, int tensor, int expert);
  Linear &linear_of(int layer, int tensor, int expert);
  int64_t vector_length(int layer, int tensor) const;
  std::pair<int64_t, int64_t> linear_shape(int layer, int tensor) const;

  void embed(const hc_batch &batch);
  void rotate_positions(const hc_batch &batch);
  void run_layer(Layer &layer, const hc_batch &batch);
  void attention(Layer &layer, const hc_batch &batch);
  void write_keys(Layer &layer, const hc_batch &batch);
  // The inner values of an MLP, of rows of its input.
  Use inner_use(const Layer &layer, const Mlp &mlp, int first_row, int num_rows);
  void mlp(Layer &layer, int num_tokens);
  void experts(Layer &layer, int num_tokens);
  // Chooses experts for every token, and sorts the choices by expert.
  void choose_experts(const Layer &layer, int num_tokens);
  void answer(const hc_batch &batch);

  // One function for each token, in parallel where that pays.
  template <class Work> void each_token(int num_tokens, Work work);
  void norm(const float *x, Vector weight, Vector bias, float *y) const;
  // Norms every token's stream into the input rows of these linears.
  void prepare(Vector weight, Vector bias, const InputRows::Forms &forms, int num_tokens);
  // Adds a branch's result to the stream, behind its own norm where it has one.
  void add_branch(const Linear &linear, Vector post_norm, float scale, int num_tokens);

  hc_stage_config config_;
  const Kernels &kernels_;
  std::vector<Layer> layers_;
  std::vector<RopeTable> ropes_;
  Slabs slabs_;
  int64_t weight_bytes_ = 0;
  bool is_ready_ = false;

  const std::byte *embedding_ = nullptr;
  int32_t embedding_format_ = 0;
  Vector final_norm_ = nullptr, final_norm_bias_ = nullptr;
  Linear head_;

  int num_blocks_ = 0;
  int block_size_ = 0;
  int num_threads_ = 0;
  Array<float> stream_; // [max_tokens, hidden]
  Array<float> queries_, keys_, values_; // [max_tokens, heads * head_dim]
  Array<float> attended_; // [max_tokens, heads * head_dim]
  Array<float> inner_; // [max_tokens, intermediate]
  Array<float> branch_; // [max_tokens, hidden], of a branch with a norm of its own
  Array<float> normed_; // [threads, hidden]
  InputRows input_;
  AttentionPlan attention_plan_;
  Array<float> plain_scores_; // [threads, tokens of all blocks], without tiles

  // Of layers with experts: a token's choices, and a row for each of them, those of one expert side by side.
  struct Choice {
    int token;
    int expert;
    float weight;
    int row;
  };
  Array<float> router_; // [max_tokens, experts]
  std::vector<Choice> choices_; // [tokens, experts_per_token]
  std::vector<int> first_rows_; // [experts + 1]
  std::vector<Use> expert_uses_;
  std::unique_ptr<LinearScratch> linear_scratch_;
  std::unique_ptr<AttentionScratch> attention_scratch_;
  void make_thread_room();
};

} // namespace hc
