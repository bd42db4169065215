// What histrio_cpu (Python, by ctypes) and its native library agree on: a plain C interface on pointers.
//
// A *stage* is a contiguous range of a decoder's layers. Its life: `hc_stage_new`, `hc_layer` for each layer, `hc_put`
// for each tensor, `hc_rope` for each table of frequencies, `hc_ready`, `hc_allocate`, then one `hc_step` per step.
// All calls on a stage come from one thread. No call throws; each answers an `hc_status`, and `hc_error` says why.
// Tensors are row-major, as checkpoints store them. A step allocates nothing.

#ifndef HISTRIO_CPU_H
#define HISTRIO_CPU_H

#include <stdint.h>

#if defined(_WIN32)
#define HC_API __declspec(dllexport)
#else
#define HC_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define HC_ABI 2

typedef enum {
  HC_OK = 0,
  HC_BAD_ARGUMENT = 1, // a caller's mistake: shapes, ranges, order of calls
  HC_NO_MEMORY = 2,
  HC_UNSUPPORTED = 3, // a format or a combination that no kernel has
} hc_status;

// Formats of stored tensors, by their numbers in GGUF files; those from 1000 on are no file's own, but what weights of
// other quantizers are handed over as, in blocks of 32 numbers.
typedef enum {
  HC_F32 = 0,
  HC_F16 = 1,
  HC_Q4_0 = 2,
  HC_Q4_1 = 3,
  HC_Q5_0 = 6,
  HC_Q5_1 = 7,
  HC_Q8_0 = 8,
  HC_Q2_K = 10,
  HC_Q3_K = 11,
  HC_Q4_K = 12,
  HC_Q5_K = 13,
  HC_Q6_K = 14,
  HC_IQ4_NL = 20,
  HC_BF16 = 30,
  HC_MXFP4 = 39,
  HC_U4_ZERO = 1001, // step and zero point in float16, 16 bytes as Q4_0 has them: step * (number - zero point)
  HC_U4_WIDE = 1002, // step and minimum in float32, 16 bytes: step * number + minimum
  HC_U8_MIN = 1003, // step and minimum in float16, 32 unsigned bytes
  HC_U8_WIDE = 1004, // step and minimum in float32, 32 unsigned bytes
  HC_I8_WIDE = 1005, // step in float32, 32 signed bytes
  HC_F8_E4M3 = 1006, // factor in float32, 32 numbers in 8 bit with 4 of exponent
} hc_format;

// How the weights of a linear are kept for computing.
typedef enum {
  HC_KEEP = 0, // without loss: 16 and 32 bit as they are, blocks of 8 and 4 bit repacked with their own scales
  HC_AS_Q8 = 1, // rounded to 8 bit in groups of 32 of the input, where they have more
  HC_AS_Q4 = 2, // rounded to 4 bit in groups of 32 of the input, where they have more
  HC_PACKED = 16, // with one of the others: `hc_packed` of such a linear gave the data
} hc_storage;

typedef enum {
  HC_ACT_F32 = 0, // float32 throughout
  HC_ACT_BF16 = 1, // inputs of products are rounded to bfloat16, sums are float32
} hc_activations;

typedef enum {
  HC_KV_F32 = 0, // beside HC_ACT_F32
  HC_KV_BF16 = 1, // beside HC_ACT_BF16
  HC_KV_I8 = 2, // codes, with a scale for each token and head
  HC_KV_F16 = 3, // beside HC_ACT_F32
} hc_kv_format;

typedef enum { HC_RMS_NORM = 0, HC_LAYER_NORM = 1 } hc_norm;

typedef enum {
  HC_SILU = 0,
  HC_GELU_TANH = 1,
  HC_GELU = 2,
  HC_CLIPPED = 3, // only of gated MLPs: (clip(up) + 1) * g * sigmoid(gate_alpha * g), g the gate, at most gate_limit
} hc_activation;

typedef enum {
  // of the stage; `layer` is -1
  HC_EMBEDDING = 0, // [vocab, hidden], of the first stage; read from where it lies, so it has to stay
  HC_FINAL_NORM = 1, // [hidden], of the last stage
  HC_HEAD = 2, // [vocab, hidden], of the last stage
  HC_HEAD_BIAS = 3,
  HC_FINAL_NORM_BIAS = 4,
  // of a layer
  HC_ATTN_NORM = 10, // [hidden], before attention
  HC_ATTN_NORM_BIAS = 11,
  HC_Q = 12, // [heads * head_dim, hidden]
  HC_K = 13, // [kv_heads * head_dim, hidden]
  HC_V = 14,
  HC_O = 15, // [hidden, heads * head_dim]
  HC_Q_BIAS = 16,
  HC_K_BIAS = 17,
  HC_V_BIAS = 18,
  HC_O_BIAS = 19,
  HC_Q_NORM = 20, // [head_dim], or [heads * head_dim] with HC_QK_NORM_WHOLE or _CENTRED
  HC_K_NORM = 21, // [head_dim], or [kv_heads * head_dim]
  HC_POST_ATTN_NORM = 22, // [hidden], of the attention's result
  HC_SINKS = 23, // [heads]
  HC_MLP_NORM = 30, // [hidden], before the MLP
  HC_MLP_NORM_BIAS = 31,
  HC_GATE = 32, // [intermediate, hidden]
  HC_UP = 33,
  HC_DOWN = 34, // [hidden, intermediate]
  HC_GATE_BIAS = 35,
  HC_UP_BIAS = 36,
  HC_DOWN_BIAS = 37,
  HC_POST_MLP_NORM = 38, // [hidden], of the MLP's result
  HC_ROUTER = 40, // [experts, hidden]
  HC_ROUTER_BIAS = 41,
} hc_tensor;

typedef enum {
  HC_QK_NORM = 1, // RMS norm of each head of q and k before the rotation
  HC_QK_NORM_WHOLE = 2, // the same over all heads together
  HC_ROPE_INTERLEAVED = 4, // pairs are neighbours (2i, 2i+1); otherwise (i, i + rotary_dim/2)
  HC_PARALLEL = 8, // attention and MLP both read the normed input of the layer
  HC_UNGATED = 16, // the MLP is down(act(up(x)))
  HC_ROUTER_SIGMOID = 32,
  HC_ROUTER_RENORMALIZE = 64, // weights of the chosen experts add up to 1
  HC_QK_NORM_CENTRED = 128, // a layer norm of each head, which has weights of its own
} hc_layer_flags;

typedef struct {
  uint32_t struct_bytes; // sizeof, as the caller knows it
  int32_t num_layers; // of this stage
  int32_t hidden;
  int32_t vocab;
  int32_t is_first;
  int32_t is_last;
  int32_t activations; // hc_activations
  int32_t kv_format; // hc_kv_format
  int32_t max_tokens; // most tokens of a step
  int32_t max_rows; // most rows of a step
  int32_t max_logits; // most positions of a step whose logits are asked for
  int32_t norm; // hc_norm
  float norm_eps;
  float embedding_scale; // 1 for none
  float logit_scale; // 1 for none
  float logit_softcap; // 0 for none
  int32_t attention_tile; // keys whose softmax runs apart from the others', a multiple of 64; 0: scores of all keys in memory
} hc_stage_config;

typedef struct {
  uint32_t struct_bytes;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t intermediate;
  int32_t activation; // hc_activation
  int32_t flags; // hc_layer_flags
  int32_t window; // keys that a token sees, itself included; 0 for all
  int32_t rope; // number of its table of frequencies; -1 for none
  float attention_scale; // of q·k
  float attention_softcap; // 0 for none
  float residual_scale; // of what attention and MLP add; 1 for none
  int32_t num_experts; // 0: a dense MLP
  int32_t experts_per_token;
  float gate_alpha; // both of HC_CLIPPED
  float gate_limit; // of the gate from above, of `up` on both sides
} hc_layer_config;

typedef struct {
  uint32_t struct_bytes;
  int32_t num_rows;
  int32_t num_tokens;
  int32_t table_width; // columns of block_tables
  const int32_t *starts; // [rows] tokens of the row already in its blocks
  const int32_t *offsets; // [rows + 1]
  const int32_t *block_tables; // [rows, table_width]
  const int64_t *token_ids; // [tokens] on the first stage
  const float *hidden_in; // [tokens, hidden] elsewhere
  float *hidden_out; // [tokens, hidden], not on the last stage
  int32_t num_logits;
  int32_t num_pooled;
  const int32_t *logit_tokens; // [num_logits] indices of tokens of the step
  const int32_t *pooled_tokens; // [num_pooled]
  float *logits; // [num_logits, vocab]
  float *states; // [num_pooled, hidden] behind the final norm
} hc_batch;

typedef struct hc_stage hc_stage;

HC_API int32_t hc_abi(void);
// Text of this thread's last failure, empty if there was none.
HC_API const char *hc_error(void);
// Name of the kernels in use: amx, avx512-bf16, avx512, avx2, neon, plain.
HC_API const char *hc_kernels(void);
// Names of all kernels that this processor can run, fastest first, separated by spaces.
HC_API const char *hc_kernels_available(void);
// Use these kernels, for stages made from now on.
HC_API int32_t hc_use_kernels(const char *name);
// Compute threads of the process, the caller included.
HC_API int32_t hc_use_threads(int32_t count);
// The same, with an equal number of them kept on each of several nodes of memory, the calling thread on the first:
// `node_of` has the node of each processor from 0 on, or -1 for one that is not used.
HC_API int32_t hc_use_nodes(int32_t count, int32_t num_nodes, const int32_t *node_of, int32_t num_processors);
// Compares every kernel in use with the plain one on small numbers.
HC_API int32_t hc_self_test(void);

HC_API int32_t hc_stage_new(const hc_stage_config *config, hc_stage **stage);
HC_API void hc_stage_free(hc_stage *stage);
HC_API int32_t hc_layer(hc_stage *stage, int32_t layer, const hc_layer_config *config);
// A table of `count` frequencies (half of the rotated dimensions) and the factor on cos and sin.
HC_API int32_t hc_rope(hc_stage *stage, int32_t table, const float *inverse_frequencies, int32_t count, float scale);
// Vectors have rows == 1. `expert` is 0 for dense layers. The data of linears and vectors are copied.
HC_API int32_t hc_put(hc_stage *stage, int32_t layer, int32_t tensor, int32_t expert, int32_t format, int32_t storage,
                      int64_t rows, int64_t columns, const void *data);
// The panels of a linear that was put; null where it was not.
HC_API const void *hc_packed(hc_stage *stage, int32_t layer, int32_t tensor, int32_t expert);
// Bytes of a linear's panels; 0 for a format that is unknown or does not fit its length.
HC_API int64_t hc_packed_bytes(int32_t format, int32_t storage, int64_t rows, int64_t columns);
// Whether all tensors that the configuration needs are there; names the first that is missing.
HC_API int32_t hc_ready(hc_stage *stage);
// Bytes of the packed weights, and of keys and values of one token in all layers.
HC_API int64_t hc_weight_bytes(const hc_stage *stage);
HC_API int64_t hc_kv_bytes_per_token(const hc_stage *stage);
// Room for blocks of `block_size` tokens (16, 32, 64 or 128); again with the same numbers it keeps the memory.
HC_API int32_t hc_allocate(hc_stage *stage, int32_t num_blocks, int32_t block_size);
HC_API int32_t hc_copy_blocks(hc_stage *stage, int32_t count, const int32_t *from, const int32_t *to);
HC_API int32_t hc_step(hc_stage *stage, const hc_batch *batch);
// `count` values (a multiple of the format's block) as float32, bit for bit as the format's definition says.
HC_API int32_t hc_dequantize(int32_t format, int64_t count, const void *data, float *values);

#ifdef __cplusplus
}
#endif
#endif
