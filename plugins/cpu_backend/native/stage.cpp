#include "stage.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "error.hpp"
#include "formats.hpp"

namespace hc {
namespace {

constexpr int kTokensAtOnce = 8; // of work that is done token by token
constexpr int kFewTokens = 4; // that one thread does alone, because waking the others takes longer

std::string where(int layer, int tensor) { return "tensor " + std::to_string(tensor) + " of layer " + std::to_string(layer); }

bool is_bias_of_linear(int tensor) {
  switch (tensor) {
    case HC_HEAD_BIAS:
    case HC_Q_BIAS:
    case HC_K_BIAS:
    case HC_V_BIAS:
    case HC_O_BIAS:
    case HC_GATE_BIAS:
    case HC_UP_BIAS:
    case HC_DOWN_BIAS:
    case HC_ROUTER_BIAS: return true;
    default: return false;
  }
}

int linear_of_bias(int tensor) {
  switch (tensor) {
    case HC_HEAD_BIAS: return HC_HEAD;
    case HC_Q_BIAS: return HC_Q;
    case HC_K_BIAS: return HC_K;
    case HC_V_BIAS: return HC_V;
    case HC_O_BIAS: return HC_O;
    case HC_GATE_BIAS: return HC_GATE;
    case HC_UP_BIAS: return HC_UP;
    case HC_ROUTER_BIAS: return HC_ROUTER;
    default: return HC_DOWN;
  }
}

} // namespace

// ---- making a stage ---------------------------------------------------------------------------------------------

Stage::Stage(const hc_stage_config &config, const Kernels &kernels) : config_(config), kernels_(kernels) {
  require(config.num_layers > 0 && config.hidden > 0 && config.max_tokens > 0, "num_layers, hidden and max_tokens must be above 0");
  require(config.vocab > 0 || (!config.is_first && !config.is_last), "vocab must be above 0");
  require(config.attention_tile >= 0 && config.attention_tile % kChunk == 0 && config.attention_tile <= 1 << 20,
          "a tile of attention must be a multiple of 64, from 64 to 1048576, or 0 for none");
  require(config.kv_format == HC_KV_I8 || (config.kv_format == HC_KV_BF16) == (config.activations == HC_ACT_BF16), "keys and values must be as activations, float16 beside float32, or codes of 8 bits");
  layers_.resize(std::size_t(config.num_layers));
}

void Stage::set_layer(int layer, const hc_layer_config &config) {
  require(layer >= 0 && layer < config_.num_layers, "there is no layer " + std::to_string(layer));
  require(config.num_kv_heads > 0 && config.num_heads % config.num_kv_heads == 0, "num_heads must be a multiple of num_kv_heads");
  require(config.num_heads / config.num_kv_heads <= AttentionScratch::kQueries, "too many query heads share keys");
  require(config.head_dim > 0 && config.head_dim % kPiece == 0 && config.head_dim <= 1024, "head_dim must be a multiple of 16 and at most 1024");
  require(config.intermediate > 0, "intermediate must be above 0");
  require(config.num_experts >= 0 && config.num_experts <= 4096 && config.experts_per_token >= 0 && config.experts_per_token <= config.num_experts,
          "experts_per_token must be at most num_experts");
  require(config.num_experts == 0 || (config.experts_per_token > 0 && (config.flags & (HC_PARALLEL | HC_UNGATED | HC_ROUTER_SIGMOID)) == 0),
          "experts are gated, behind attention, and chosen by softmax");
  require(config.activation != HC_CLIPPED || ((config.flags & HC_UNGATED) == 0 && config.gate_limit > 0), "a clipped gate needs a gate and a limit above 0");
  Layer &made = layers_[std::size_t(layer)];
  made.config = config;
  made.mlps.resize(std::size_t(std::max(1, config.num_experts)));
  made.cache = KvCache(config.num_kv_heads, config.head_dim, hc_kv_format(config_.kv_format));
}

void Stage::set_rope(int table, const float *inverse_frequencies, int count, float scale) {
  require(table >= 0 && table < 16 && count > 0 && count <= 512, "a table of rotary frequencies is out of range");
  ropes_.resize(std::max(ropes_.size(), std::size_t(table) + 1));
  RopeTable &made = ropes_[std::size_t(table)];
  made.inverse_frequencies.assign(inverse_frequencies, inverse_frequencies + count);
  made.scale = scale;
  made.cos = Array<float>(std::size_t(config_.max_tokens) * std::size_t(count));
  made.sin = Array<float>(std::size_t(config_.max_tokens) * std::size_t(count));
}

std::pair<int64_t, int64_t> Stage::linear_shape(int layer, int tensor) const {
  const int64_t hidden = config_.hidden;
  if (tensor == HC_HEAD || tensor == HC_EMBEDDING) return {config_.vocab, hidden};
  const hc_layer_config &c = layers_[std::size_t(layer)].config;
  switch (tensor) {
    case HC_Q: return {int64_t(c.num_heads) * c.head_dim, hidden};
    case HC_K:
    case HC_V: return {int64_t(c.num_kv_heads) * c.head_dim, hidden};
    case HC_O: return {hidden, int64_t(c.num_heads) * c.head_dim};
    case HC_GATE:
    case HC_UP: return {c.intermediate, hidden};
    case HC_DOWN: return {hidden, c.intermediate};
    case HC_ROUTER: return {c.num_experts, hidden};
    default: throw Error(HC_BAD_ARGUMENT, where(layer, tensor) + " is unknown");
  }
}

int64_t Stage::vector_length(int layer, int tensor) const {
  if (is_bias_of_linear(tensor)) return linear_shape(layer, linear_of_bias(tensor)).first;
  if (layer < 0) return config_.hidden;
  const Layer &l = layers_[std::size_t(layer)];
  const bool is_whole = l.has(HC_QK_NORM_WHOLE) || l.has(HC_QK_NORM_CENTRED);
  switch (tensor) {
    case HC_Q_NORM: return is_whole ? int64_t(l.config.num_heads) * l.config.head_dim : l.config.head_dim;
    case HC_K_NORM: return is_whole ? int64_t(l.config.num_kv_heads) * l.config.head_dim : l.config.head_dim;
    case HC_SINKS: return l.config.num_heads;
    default: return config_.hidden;
  }
}

Linear &Stage::linear_of(int layer, int tensor, int expert) {
  if (tensor == HC_HEAD) return head_;
  Layer &l = layers_[std::size_t(layer)];
  switch (tensor) {
    case HC_Q: return l.q;
    case HC_K: return l.k;
    case HC_V: return l.v;
    case HC_O: return l.o;
    case HC_ROUTER: return l.router;
    default: break;
  }
  require(expert >= 0 && std::size_t(expert) < l.mlps.size(), where(layer, tensor) + " has no such expert");
  Mlp &mlp = l.mlps[std::size_t(expert)];
  return tensor == HC_GATE ? mlp.gate : tensor == HC_UP ? mlp.up : mlp.down;
}

Vector &Stage::vector_of(int layer, int tensor, int expert) {
  if (tensor == HC_FINAL_NORM) return final_norm_;
  if (tensor == HC_FINAL_NORM_BIAS) return final_norm_bias_;
  if (is_bias_of_linear(tensor)) return linear_of(layer, linear_of_bias(tensor), expert).bias;
  Layer &l = layers_[std::size_t(layer)];
  switch (tensor) {
    case HC_ATTN_NORM: return l.attention_norm;
    case HC_ATTN_NORM_BIAS: return l.attention_norm_bias;
    case HC_Q_NORM: return l.q_norm;
    case HC_K_NORM: return l.k_norm;
    case HC_POST_ATTN_NORM: return l.post_attention_norm;
    case HC_SINKS: return l.sinks;
    case HC_MLP_NORM: return l.mlp_norm;
    case HC_MLP_NORM_BIAS: return l.mlp_norm_bias;
    case HC_POST_MLP_NORM: return l.post_mlp_norm;
    default: throw Error(HC_BAD_ARGUMENT, where(layer, tensor) + " is unknown");
  }
}

void Stage::put(int layer, int tensor, int expert, int format, int storage, int64_t rows, int64_t columns, const std::byte *data) {
  const bool is_of_stage = tensor < HC_ATTN_NORM;
  require(is_of_stage ? layer == -1 : layer >= 0 && layer < config_.num_layers, where(layer, tensor) + ": there is no such layer");
  require(is_of_stage || layers_[std::size_t(layer)].config.num_heads > 0, where(layer, tensor) + " comes before its layer is described");
  if (row_bytes(format, columns) == 0) throw Error(HC_UNSUPPORTED, where(layer, tensor) + " is stored in a format that is unknown or does not fit its length");
  if (rows == 1 && tensor != HC_HEAD && tensor != HC_EMBEDDING && tensor != HC_ROUTER) {
    put_vector(layer, tensor, expert, format, columns, data);
    return;
  }

  const auto [num_outputs, num_inputs] = linear_shape(layer, tensor);
  require(rows == num_outputs && columns == num_inputs, where(layer, tensor) + " has " + std::to_string(rows) + " by " + std::to_string(columns) +
                                                            " values, not " + std::to_string(num_outputs) + " by " + std::to_string(num_inputs));
  if (tensor == HC_EMBEDDING) {
    embedding_ = data;
    embedding_format_ = format;
    return;
  }

  Linear &linear = linear_of(layer, tensor, expert);
  const float *bias = linear.bias;
  // Rounding the router's input would change which experts are chosen.
  const bool keeps_bf16 = config_.activations == HC_ACT_BF16 && tensor != HC_ROUTER;
  const int32_t kept = tensor == HC_ROUTER ? HC_KEEP : storage & ~HC_PACKED;
  const auto take = (storage & HC_PACKED) != 0 ? copy_packed : pack;
  linear = take(slabs_, format, kept, int(rows), int(columns), data, keeps_bf16);
  linear.bias = bias;
  weight_bytes_ += int64_t(linear.num_bytes);
}

const std::byte *Stage::packed(int layer, int tensor, int expert) {
  const bool is_of_stage = tensor == HC_HEAD;
  require(is_of_stage || (layer >= 0 && layer < config_.num_layers), where(layer, tensor) + ": there is no such layer");
  linear_shape(layer, tensor); // raises for what is no linear
  require(tensor != HC_EMBEDDING, "embeddings are not packed");
  return linear_of(layer, tensor, expert).panels;
}

void Stage::put_vector(int layer, int tensor, int expert, int format, int64_t count, const std::byte *data) {
  const int64_t length = vector_length(layer, tensor);
  require(count == length, where(layer, tensor) + " has " + std::to_string(count) + " values, not " + std::to_string(length));
  const std::size_t room = (std::size_t(count) + kPanel - 1) / kPanel * kPanel; // panels read their bias whole
  float *values = reinterpret_cast<float *>(slabs_.take(room * sizeof(float)));
  std::fill(values, values + room, 0.0f);
  dequantize(format, count, data, values);
  vector_of(layer, tensor, expert) = values;
  weight_bytes_ += count * int64_t(sizeof(float));
}

void Stage::ready() {
  int most_inputs = config_.hidden, most_heads = 0, most_kv = 0, most_inner = 0, most_experts = 0, most_chosen = 1;
  const auto needs = [](bool is_there, const char *what, int layer) {
    require(is_there, std::string(what) + (layer < 0 ? "" : " of layer " + std::to_string(layer)) + " is missing");
  };
  for (int i = 0; i < config_.num_layers; ++i) {
    const Layer &l = layers_[std::size_t(i)];
    needs(l.config.num_heads > 0, "the description", i);
    needs(l.q.panels != nullptr && l.k.panels != nullptr && l.v.panels != nullptr && l.o.panels != nullptr, "a linear of attention", i);
    for (const Mlp &mlp : l.mlps) {
      needs(mlp.up.panels != nullptr && mlp.down.panels != nullptr, "a linear of the MLP", i);
      needs(l.has(HC_UNGATED) || mlp.gate.panels != nullptr, "the gate of the MLP", i);
    }
    needs(l.config.num_experts == 0 || l.router.panels != nullptr, "the router", i);
    most_experts = std::max(most_experts, l.config.num_experts);
    most_chosen = std::max(most_chosen, l.config.experts_per_token);
    needs(!(l.has(HC_QK_NORM) || l.has(HC_QK_NORM_WHOLE) || l.has(HC_QK_NORM_CENTRED)) || (l.q_norm != nullptr && l.k_norm != nullptr), "a norm of queries or keys", i);
    needs(!l.has(HC_PARALLEL) || l.attention_norm != nullptr, "the norm", i);
    require(l.config.rope < int(ropes_.size()), "a layer names a table of frequencies that is missing");
    most_heads = std::max(most_heads, l.config.num_heads * l.config.head_dim);
    most_kv = std::max(most_kv, l.config.num_kv_heads * l.config.head_dim);
    most_inner = std::max(most_inner, l.config.intermediate);
  }
  needs(!config_.is_first || embedding_ != nullptr, "the embedding", -1);
  needs(!config_.is_last || (head_.panels != nullptr && final_norm_ != nullptr), "the head or the final norm", -1);

  const std::size_t tokens = std::size_t(config_.max_tokens);
  stream_ = Array<float>(tokens * std::size_t(config_.hidden));
  const std::size_t rows = tokens * std::size_t(most_chosen); // of the MLP's inputs
  branch_ = Array<float>(rows * std::size_t(config_.hidden));
  queries_ = Array<float>(tokens * std::size_t(most_heads));
  attended_ = Array<float>(tokens * std::size_t(most_heads));
  keys_ = Array<float>(tokens * std::size_t(most_kv));
  values_ = Array<float>(tokens * std::size_t(most_kv));
  inner_ = Array<float>(rows * std::size_t(most_inner));
  most_inputs = std::max({most_inputs, most_heads, most_inner});
  input_ = InputRows(int(rows), most_inputs);
  router_ = Array<float>(tokens * std::size_t(most_experts));
  choices_.reserve(rows);
  first_rows_.reserve(std::size_t(most_experts) + 1);
  expert_uses_.reserve(std::size_t(most_experts));
  attention_plan_.tile = config_.attention_tile;
  attention_plan_.tasks.reserve(tokens * 64);
  is_ready_ = true;
  make_thread_room();
}

void Stage::make_thread_room() {
  const int num_threads = Pool::instance().num_threads();
  if (num_threads == num_threads_) return;
  int most_dim = 0;
  for (const Layer &layer : layers_) most_dim = std::max(most_dim, layer.config.head_dim);
  linear_scratch_ = std::make_unique<LinearScratch>(num_threads);
  attention_scratch_ = std::make_unique<AttentionScratch>(num_threads, most_dim);
  normed_ = Array<float>(std::size_t(num_threads) * std::size_t(config_.hidden));
  if (config_.attention_tile == 0) plain_scores_ = Array<float>(std::size_t(num_threads) * std::size_t(num_blocks_) * std::size_t(block_size_));
  num_threads_ = num_threads;
}

int64_t Stage::kv_bytes_per_token() const {
  int64_t bytes = 0;
  for (const Layer &layer : layers_) bytes += int64_t(layer.cache.bytes_per_token());
  return bytes;
}

void Stage::allocate(int num_blocks, int block_size) {
  require(is_ready_, "the stage is not ready");
  require(num_blocks > 0 && block_size > 0 && block_size % kPiece == 0, "blocks must be there and have a multiple of 16 tokens");
  for (Layer &layer : layers_) layer.cache.allocate(num_blocks, block_size);
  num_blocks_ = num_blocks;
  block_size_ = block_size;
  if (config_.attention_tile == 0) num_threads_ = 0; // the room for scores depends on blocks
}

void Stage::copy_blocks(int count, const int32_t *from, const int32_t *to) {
  for (int i = 0; i < count; ++i)
    require(from[i] >= 0 && from[i] < num_blocks_ && to[i] >= 0 && to[i] < num_blocks_, "there is no such block");
  for (Layer &layer : layers_)
    for (int i = 0; i < count; ++i) layer.cache.copy(from[i], to[i]);
}

// ---- a step -----------------------------------------------------------------------------------------------------

void Stage::check(const hc_batch &batch) const {
  require(num_blocks_ > 0, "the stage has no blocks");
  require(batch.num_rows > 0 && batch.num_tokens > 0 && batch.num_tokens <= config_.max_tokens, "the step has no tokens, or too many");
  require(batch.offsets[0] == 0 && batch.offsets[batch.num_rows] == batch.num_tokens, "offsets don't add up to the tokens");
  for (int row = 0; row < batch.num_rows; ++row) {
    const int count = batch.offsets[row + 1] - batch.offsets[row];
    require(count > 0 && batch.starts[row] >= 0, "a row has no tokens, or starts below 0");
    const int num_blocks = (batch.starts[row] + count + block_size_ - 1) / block_size_;
    require(num_blocks <= batch.table_width, "a row has more tokens than blocks");
    for (int i = 0; i < num_blocks; ++i) {
      const int block = batch.block_tables[std::size_t(row) * std::size_t(batch.table_width) + std::size_t(i)];
      require(block >= 0 && block < num_blocks_, "a row names a block that is not there");
    }
  }
  require(batch.num_logits >= 0 && batch.num_logits <= batch.num_tokens && batch.num_pooled >= 0 && batch.num_pooled <= batch.num_tokens,
          "more positions are asked for than there are tokens");
  for (int i = 0; i < batch.num_logits; ++i) require(batch.logit_tokens[i] >= 0 && batch.logit_tokens[i] < batch.num_tokens, "there is no such token");
  for (int i = 0; i < batch.num_pooled; ++i) require(batch.pooled_tokens[i] >= 0 && batch.pooled_tokens[i] < batch.num_tokens, "there is no such token");
  if (config_.is_first)
    for (int i = 0; i < batch.num_tokens; ++i) require(batch.token_ids[i] >= 0 && batch.token_ids[i] < config_.vocab, "a token id is not in the vocabulary");
}

void Stage::step(const hc_batch &batch) {
  check(batch);
  const auto keeps_size = Pool::instance().keep_size();
  make_thread_room();
  const std::size_t hidden = std::size_t(config_.hidden), count = std::size_t(batch.num_tokens) * hidden;
  if (config_.is_first) embed(batch);
  else std::memcpy(stream_.data(), batch.hidden_in, count * sizeof(float));
  rotate_positions(batch);

  for (Layer &layer : layers_) run_layer(layer, batch);

  if (config_.is_last) answer(batch);
  else std::memcpy(batch.hidden_out, stream_.data(), count * sizeof(float));
}

template <class Work> void Stage::each_token(int num_tokens, Work work) {
  if (num_tokens <= kFewTokens) {
    for (int token = 0; token < num_tokens; ++token) work(token, 0);
    return;
  }
  Pool::instance().run((num_tokens + kTokensAtOnce - 1) / kTokensAtOnce, [&](int task, int thread) {
    const int end = std::min(num_tokens, (task + 1) * kTokensAtOnce);
    for (int token = task * kTokensAtOnce; token < end; ++token) work(token, thread);
  });
}

void Stage::embed(const hc_batch &batch) {
  const std::size_t bytes = row_bytes(embedding_format_, config_.hidden);
  each_token(batch.num_tokens, [&](int token, int) {
    float *row = stream_.data() + std::size_t(token) * std::size_t(config_.hidden);
    dequantize(embedding_format_, config_.hidden, embedding_ + std::size_t(batch.token_ids[token]) * bytes, row);
    if (config_.embedding_scale != 1.0f)
      for (int i = 0; i < config_.hidden; ++i) row[i] *= config_.embedding_scale;
  });
}

void Stage::rotate_positions(const hc_batch &batch) {
  for (RopeTable &table : ropes_) {
    const std::size_t count = table.inverse_frequencies.size();
    for (int row = 0; row < batch.num_rows; ++row)
      for (int token = batch.offsets[row]; token < batch.offsets[row + 1]; ++token) {
        const float position = float(batch.starts[row] + token - batch.offsets[row]);
        for (std::size_t i = 0; i < count; ++i) {
          // The product is rounded to float32, as the reference implementations round it.
          const double angle = double(position * table.inverse_frequencies[i]);
          table.cos[std::size_t(token) * count + i] = float(std::cos(angle)) * table.scale;
          table.sin[std::size_t(token) * count + i] = float(std::sin(angle)) * table.scale;
        }
      }
  }
}

void Stage::norm(const float *x, Vector weight, Vector bias, float *y) const {
  if (config_.norm == HC_LAYER_NORM) kernels_.layer_norm(x, weight, bias, config_.norm_eps, config_.hidden, y);
  else kernels_.rms_norm(x, weight, config_.norm_eps, config_.hidden, y);
}

void Stage::prepare(Vector weight, Vector bias, const InputRows::Forms &forms, int num_tokens) {
  input_.shape(config_.hidden);
  each_token(num_tokens, [&](int token, int thread) {
    const float *row = stream_.data() + std::size_t(token) * std::size_t(config_.hidden);
    if (weight == nullptr) {
      input_.fill(kernels_, forms, token, row);
      return;
    }
    float *normed = normed_.data() + std::size_t(thread) * std::size_t(config_.hidden);
    norm(row, weight, bias, normed);
    input_.fill(kernels_, forms, token, normed);
  });
}

void Stage::add_branch(const Linear &linear, Vector post_norm, float scale, int num_tokens) {
  const std::size_t hidden = std::size_t(config_.hidden);
  const bool is_direct = post_norm == nullptr;
  const Use use{&linear, 0, num_tokens, is_direct ? Use::kAdd : Use::kStore, is_direct ? stream_.data() : branch_.data(), hidden, nullptr, is_direct ? scale : 1.0f};
  run(kernels_, Pool::instance(), *linear_scratch_, &use, 1, input_);
  if (is_direct) return;
  each_token(num_tokens, [&](int token, int thread) {
    float *normed = normed_.data() + std::size_t(thread) * hidden;
    norm(branch_.data() + std::size_t(token) * hidden, post_norm, nullptr, normed);
    kernels_.add_scaled(stream_.data() + std::size_t(token) * hidden, normed, scale, config_.hidden);
  });
}

void Stage::run_layer(Layer &layer, const hc_batch &batch) {
  if (!layer.has(HC_PARALLEL)) {
    attention(layer, batch);
    mlp(layer, batch.num_tokens);
    return;
  }

  // Both branches read the stream as it came: the MLP's inner values are computed before attention changes it.
  InputRows::Forms forms;
  forms.add(layer.mlps[0].gate);
  forms.add(layer.mlps[0].up);
  prepare(layer.attention_norm, layer.attention_norm_bias, forms, batch.num_tokens);
  const Mlp &mlp = layer.mlps[0];
  const Use use = inner_use(layer, mlp, 0, batch.num_tokens);
  run(kernels_, Pool::instance(), *linear_scratch_, &use, 1, input_);
  attention(layer, batch);

  InputRows::Forms inner;
  inner.add(mlp.down);
  input_.shape(layer.config.intermediate);
  each_token(batch.num_tokens, [&](int token, int) { input_.fill(kernels_, inner, token, inner_.data() + std::size_t(token) * std::size_t(layer.config.intermediate)); });
  add_branch(mlp.down, nullptr, layer.config.residual_scale, batch.num_tokens);
}

void Stage::attention(Layer &layer, const hc_batch &batch) {
  const hc_layer_config &c = layer.config;
  const std::size_t heads = std::size_t(c.num_heads * c.head_dim), kv = std::size_t(c.num_kv_heads * c.head_dim);
  InputRows::Forms forms;
  for (const Linear *linear : {&layer.q, &layer.k, &layer.v}) forms.add(*linear);
  prepare(layer.attention_norm, layer.attention_norm_bias, forms, batch.num_tokens);
  const int num_tokens = batch.num_tokens;
  const Use uses[] = {{&layer.q, 0, num_tokens, Use::kStore, queries_.data(), heads}, {&layer.k, 0, num_tokens, Use::kStore, keys_.data(), kv}, {&layer.v, 0, num_tokens, Use::kStore, values_.data(), kv}};
  run(kernels_, Pool::instance(), *linear_scratch_, uses, 3, input_);
  write_keys(layer, batch);

  const AttentionShape shape{c.num_heads, c.num_kv_heads, c.head_dim, c.window, c.attention_scale, c.attention_softcap, layer.sinks};
  const bool is_bf16 = config_.activations == HC_ACT_BF16;
  const AttentionCall call{kernels_, Pool::instance(), *attention_scratch_, layer.cache, block_size_, is_bf16, shape, batch, queries_.data(), attended_.data(), heads};
  if (config_.attention_tile == 0) {
    attend_plain(call, plain_scores_.data(), std::size_t(num_blocks_) * std::size_t(block_size_));
  } else {
    divide(batch, shape, num_threads_, attention_plan_);
    attend(call, attention_plan_);
  }

  InputRows::Forms attended;
  attended.add(layer.o);
  input_.shape(int(heads));
  each_token(batch.num_tokens, [&](int token, int) { input_.fill(kernels_, attended, token, attended_.data() + std::size_t(token) * heads); });
  add_branch(layer.o, layer.post_attention_norm, c.residual_scale, batch.num_tokens);
}

// Norms and rotates queries and keys, and writes keys and values into the rows' blocks.
void Stage::write_keys(Layer &layer, const hc_batch &batch) {
  const hc_layer_config &c = layer.config;
  const RopeTable *table = c.rope < 0 ? nullptr : &ropes_[std::size_t(c.rope)];
  const int dim = c.head_dim;
  const auto finish = [&](float *heads, int count, Vector weight, int token) {
    if (layer.has(HC_QK_NORM_WHOLE)) kernels_.rms_norm(heads, weight, config_.norm_eps, count * dim, heads);
    for (int head = 0; head < count; ++head) {
      float *x = heads + head * dim;
      if (layer.has(HC_QK_NORM)) kernels_.rms_norm(x, weight, config_.norm_eps, dim, x);
      if (layer.has(HC_QK_NORM_CENTRED)) kernels_.layer_norm(x, weight + head * dim, nullptr, config_.norm_eps, dim, x);
      if (table == nullptr) continue;
      const int half = int(table->inverse_frequencies.size());
      const std::size_t at = std::size_t(token) * std::size_t(half);
      kernels_.rope(x, table->cos.data() + at, table->sin.data() + at, half, layer.has(HC_ROPE_INTERLEAVED));
    }
  };
  const auto do_token = [&](int row, int token) {
    float *keys = keys_.data() + std::size_t(token) * std::size_t(c.num_kv_heads * dim);
    const float *values = values_.data() + std::size_t(token) * std::size_t(c.num_kv_heads * dim);
    finish(queries_.data() + std::size_t(token) * std::size_t(c.num_heads * dim), c.num_heads, layer.q_norm, token);
    finish(keys, c.num_kv_heads, layer.k_norm, token);
    const int position = batch.starts[row] + token - batch.offsets[row];
    const int block = batch.block_tables[std::size_t(row) * std::size_t(batch.table_width) + std::size_t(position / block_size_)];
    for (int head = 0; head < c.num_kv_heads; ++head) layer.cache.write(kernels_, block, position % block_size_, head, keys + head * dim, values + head * dim);
  };

  // Tokens of one row that share 16 places in a block are written by one thread: the first of them clears the others.
  const int num_tokens = batch.num_tokens;
  if (num_tokens <= kFewTokens) {
    for (int row = 0; row < batch.num_rows; ++row)
      for (int token = batch.offsets[row]; token < batch.offsets[row + 1]; ++token) do_token(row, token);
    return;
  }
  Pool::instance().run((num_tokens + kPiece - 1) / kPiece, [&](int task, int) {
    // Of the pieces of all rows, those whose first token of this step lies in this task's range.
    const int begin = task * kPiece, end = std::min(num_tokens, begin + kPiece);
    int row = int(std::upper_bound(batch.offsets, batch.offsets + batch.num_rows + 1, begin) - batch.offsets) - 1;
    for (; row < batch.num_rows && batch.offsets[row] < end; ++row) {
      const int first = batch.offsets[row], last = batch.offsets[row + 1], start = batch.starts[row];
      for (int token = std::max(first, begin); token < end && token < last;) {
        const int position = start + token - first;
        const bool begins_piece = token == first || position % kPiece == 0;
        if (!begins_piece) {
          ++token;
          continue;
        }
        const int piece_end = std::min(last, token + kPiece - position % kPiece);
        for (; token < piece_end; ++token) do_token(row, token);
      }
    }
  });
}

Use Stage::inner_use(const Layer &layer, const Mlp &mlp, int first_row, int num_rows) {
  const hc_layer_config &c = layer.config;
  const bool is_gated = !layer.has(HC_UNGATED);
  return {&mlp.up, first_row, num_rows, is_gated ? Use::kGate : Use::kActivate, inner_.data(), std::size_t(c.intermediate), is_gated ? &mlp.gate : nullptr, 1.0f, 0.0f, c.activation, c.gate_alpha, c.gate_limit};
}

void Stage::mlp(Layer &layer, int num_tokens) {
  if (layer.config.num_experts > 0) {
    experts(layer, num_tokens);
    return;
  }

  const Mlp &mlp = layer.mlps[0];
  const bool is_gated = !layer.has(HC_UNGATED);
  const std::size_t inner = std::size_t(layer.config.intermediate);
  InputRows::Forms forms;
  forms.add(mlp.up);
  if (is_gated) forms.add(mlp.gate);
  prepare(layer.mlp_norm, layer.mlp_norm_bias, forms, num_tokens);
  const Use use = inner_use(layer, mlp, 0, num_tokens);
  run(kernels_, Pool::instance(), *linear_scratch_, &use, 1, input_);

  InputRows::Forms down;
  down.add(mlp.down);
  input_.shape(layer.config.intermediate);
  each_token(num_tokens, [&](int token, int) { input_.fill(kernels_, down, token, inner_.data() + std::size_t(token) * inner); });
  add_branch(mlp.down, layer.post_mlp_norm, layer.config.residual_scale, num_tokens);
}

void Stage::choose_experts(const Layer &layer, int num_tokens) {
  const int num_experts = layer.config.num_experts, num_chosen = layer.config.experts_per_token;
  choices_.clear();
  for (int token = 0; token < num_tokens; ++token) {
    float *scores = router_.data() + std::size_t(token) * std::size_t(num_experts);
    const float largest = *std::max_element(scores, scores + num_experts);
    float total = 0;
    for (int e = 0; e < num_experts; ++e) total += std::exp(scores[e] - largest);
    const std::size_t first = choices_.size();
    float chosen_total = 0;
    for (int i = 0; i < num_chosen; ++i) {
      const int expert = int(std::max_element(scores, scores + num_experts) - scores);
      const float weight = std::exp(scores[expert] - largest) / total;
      choices_.push_back({token, expert, weight, 0});
      chosen_total += weight;
      scores[expert] = -std::numeric_limits<float>::infinity();
    }
    if (layer.has(HC_ROUTER_RENORMALIZE))
      for (std::size_t i = first; i < choices_.size(); ++i) choices_[i].weight /= chosen_total;
  }

  first_rows_.assign(std::size_t(num_experts) + 1, 0);
  for (const Choice &choice : choices_) ++first_rows_[std::size_t(choice.expert) + 1];
  for (std::size_t e = 1; e < first_rows_.size(); ++e) first_rows_[e] += first_rows_[e - 1];
  for (Choice &choice : choices_) choice.row = first_rows_[std::size_t(choice.expert)]++;
  for (std::size_t e = first_rows_.size() - 1; e > 0; --e) first_rows_[e] = first_rows_[e - 1];
  first_rows_[0] = 0;
}

// Only the chosen experts' weights are read.
void Stage::experts(Layer &layer, int num_tokens) {
  const std::size_t hidden = std::size_t(config_.hidden), inner = std::size_t(layer.config.intermediate);
  const int num_chosen = layer.config.experts_per_token;
  InputRows::Forms routed;
  routed.add(layer.router);
  prepare(layer.mlp_norm, layer.mlp_norm_bias, routed, num_tokens);
  const Use route{&layer.router, 0, num_tokens, Use::kStore, router_.data(), std::size_t(layer.config.num_experts)};
  run(kernels_, Pool::instance(), *linear_scratch_, &route, 1, input_);
  choose_experts(layer, num_tokens);

  InputRows::Forms forms, down;
  for (const Mlp &mlp : layer.mlps) {
    forms.add(mlp.up);
    forms.add(mlp.gate);
    down.add(mlp.down);
  }
  each_token(num_tokens, [&](int token, int thread) {
    float *normed = normed_.data() + std::size_t(thread) * hidden;
    const float *row = stream_.data() + std::size_t(token) * hidden;
    if (layer.mlp_norm != nullptr) norm(row, layer.mlp_norm, layer.mlp_norm_bias, normed);
    for (int i = 0; i < num_chosen; ++i)
      input_.fill(kernels_, forms, choices_[std::size_t(token * num_chosen + i)].row, layer.mlp_norm != nullptr ? normed : row);
  });
  const auto run_all = [&](auto use_of) {
    expert_uses_.clear();
    for (int e = 0; e < layer.config.num_experts; ++e) {
      const int first = first_rows_[std::size_t(e)], count = first_rows_[std::size_t(e) + 1] - first;
      if (count > 0) expert_uses_.push_back(use_of(layer.mlps[std::size_t(e)], first, count));
    }
    run(kernels_, Pool::instance(), *linear_scratch_, expert_uses_.data(), int(expert_uses_.size()), input_);
  };
  run_all([&](const Mlp &mlp, int first, int count) { return inner_use(layer, mlp, first, count); });

  input_.shape(layer.config.intermediate);
  each_token(int(choices_.size()), [&](int row, int) { input_.fill(kernels_, down, row, inner_.data() + std::size_t(row) * inner); });
  run_all([&](const Mlp &mlp, int first, int count) { return Use{&mlp.down, first, count, Use::kStore, branch_.data(), hidden}; });
  each_token(num_tokens, [&](int token, int thread) {
    float *sum = normed_.data() + std::size_t(thread) * hidden;
    std::fill(sum, sum + hidden, 0.0f);
    for (int i = 0; i < num_chosen; ++i) {
      const Choice &choice = choices_[std::size_t(token * num_chosen + i)];
      kernels_.add_scaled(sum, branch_.data() + std::size_t(choice.row) * hidden, choice.weight, config_.hidden);
    }
    if (layer.post_mlp_norm != nullptr) norm(sum, layer.post_mlp_norm, nullptr, sum);
    kernels_.add_scaled(stream_.data() + std::size_t(token) * hidden, sum, layer.config.residual_scale, config_.hidden);
  });
}

void Stage::answer(const hc_batch &batch) {
  const std::size_t hidden = std::size_t(config_.hidden);
  const auto row_of = [&](int token) { return stream_.data() + std::size_t(token) * hidden; };
  for (int i = 0; i < batch.num_pooled; ++i) norm(row_of(batch.pooled_tokens[i]), final_norm_, final_norm_bias_, batch.states + std::size_t(i) * hidden);
  if (batch.num_logits == 0) return;

  InputRows::Forms forms;
  forms.add(head_);
  input_.shape(config_.hidden);
  each_token(batch.num_logits, [&](int i, int thread) {
    float *normed = normed_.data() + std::size_t(thread) * hidden;
    norm(row_of(batch.logit_tokens[i]), final_norm_, final_norm_bias_, normed);
    input_.fill(kernels_, forms, i, normed);
  });
  const Use use{&head_, 0, batch.num_logits, Use::kStore, batch.logits, std::size_t(config_.vocab), nullptr, config_.logit_scale, config_.logit_softcap};
  run(kernels_, Pool::instance(), *linear_scratch_, &use, 1, input_);
}

} // namespace hc
