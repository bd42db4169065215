// The table of kernels that one kind of processor has. Each kind is one file that fills the table; all arithmetic is here.
//
// A linear's weights lie in *panels* of 64 outputs, cut along the input into *groups* of 32 values. Sums run over the
// input in one order whatever the number of rows, so that a row's result never depends on its neighbours.

#pragma once

#include <cstddef>
#include <cstdint>

namespace hc {

constexpr int kPanel = 64; // outputs of a panel
constexpr int kGroup = 32; // values of the input in a group
constexpr int kTileRows = 7; // most rows that a tile computes at once: 28 vectors of sums, 4 of weights
constexpr int kQuantizedTileRows = 3; // the same of quantized weights, which have sums of integers too
constexpr int kChunk = 64; // keys that attention takes at once
constexpr int kPiece = 16; // keys that lie side by side in every block

// Quantized ones behind kWeightsQ8; the wide ones have float32 scales, of 8 bit two in a group, and hold every format of
// GGUF without loss.
enum Weights {
  kWeightsF32,
  kWeightsBf16,
  kWeightsF16,
  kWeightsF8, // E4M3, with a factor for each group
  kWeightsQ8,
  kWeightsQ4,
  kWeightsQ4Min,
  kWeightsQ4Wide,
  kWeightsQ8Wide,
  kWeightsQ8WideMin,
  kWeightsU8Min, // unsigned, with minima
  kWeightsQ4Zero, // with zero points
  kWeightsQ4Fp4, // codes of E2M1
  kWeightsQ4NonLinear, // codes of IQ4_NL
  kNumWeights
};
enum Inputs { kInputsF32, kInputsBf16, kInputsQ8, kNumInputs };

// Rows of one linear's input. Of Q8, `scales` and `sums` have a value for each group.
struct Input {
  Inputs kind = kInputsF32;
  const void *values = nullptr; // [rows, stride]
  const float *scales = nullptr; // [rows, stride / kGroup]
  const int32_t *sums = nullptr; // [rows, stride / kGroup, 2] of the values of each half of a group
  std::size_t stride = 0; // values from a row to the next, a multiple of kGroup
};

// Adds up `num_groups` groups of a panel, for as many rows as the tile has.
struct Tile {
  const std::byte *panel; // at the first group
  const std::byte *ahead; // what is needed next, for the cache
  uint32_t fetches; // bit i: this tile fetches row i of a panel's groups there; other tiles fetch the rest
  Input input;
  std::size_t first_row;
  int first_group; // of the input
  int num_groups;
  bool is_first; // begin at zero, not at what `sums` holds
  float *sums; // [rows, kPanel]
};
using TileFunction = void (*)(const Tile &);
// The same for any number of rows and whole panels, on a processor that multiplies matrices.
using MatrixFunction = void (*)(const Tile &, int num_rows);

// Scores of query rows with kChunk keys, in four pieces that may lie in four blocks.
struct Scores {
  const void *queries; // [rows, head_dim] float32 or bfloat16
  int head_dim;
  const std::byte *pieces[kChunk / kPiece]; // keys of kPiece tokens each, [head_dim or its pairs][stride]
  std::size_t stride; // bytes from one dimension (or pair) to the next
  float *scores; // [rows, kChunk]
};
using ScoresFunction = void (*)(const Scores &);

// Adds weights · values to the outputs, which are scaled first.
struct Mixture {
  const void *weights; // [rows, kChunk] float32 or bfloat16
  const std::byte *pieces[kChunk / kPiece]; // values of kPiece tokens each, [tokens or their pairs][head_dim]
  std::size_t stride; // bytes from one token (or pair) to the next
  int head_dim;
  const float *keep; // [rows] factors of what the outputs hold
  float *outputs; // [rows, head_dim]
};
using MixtureFunction = void (*)(const Mixture &);

struct Kernels {
  const char *name;

  TileFunction tiles[kNumWeights][kNumInputs][kTileRows]; // null where there is none
  // Of a panel that a tile takes at once where several tiles follow each other: the cache keeps them meanwhile.
  int groups_at_once;
  bool takes_one_pass; // The registers hold a tile's sums for a whole panel.

  MatrixFunction matrix_bf16; // in place of the tiles of bfloat16, or null

  ScoresFunction scores_f32[kTileRows];
  ScoresFunction scores_bf16[kTileRows];
  MixtureFunction mixture_f32[kTileRows];
  MixtureFunction mixture_bf16[kTileRows];

  // One row of scores: scale, cap, leave out keys outside of [from, to), and go on with the running softmax.
  // `largest` and `total` are its state; weights become exp(score - largest), `keep` the factor of what came before.
  void (*softmax)(float *scores, int from, int to, float scale, float softcap, float *largest, float *total, float *keep);

  void (*rms_norm)(const float *x, const float *weight, float eps, int count, float *y);
  void (*layer_norm)(const float *x, const float *weight, const float *bias, float eps, int count, float *y);
  // Rotates pairs of `x` in place; dimensions beyond 2 * `half` stay.
  void (*rope)(float *x, const float *cos, const float *sin, int half, bool is_interleaved);
  void (*gated)(const float *gate, const float *up, int count, int activation, float *y); // act(gate) * up
  // (clip(up) + 1) * g * sigmoid(alpha * g), where g is the gate, at most `limit`.
  void (*gated_clipped)(const float *gate, const float *up, int count, float alpha, float limit, float *y);
  void (*activate)(float *x, int count, int activation);
  void (*add_scaled)(float *y, const float *x, float scale, int count);
  void (*to_bf16)(const float *x, int count, uint16_t *y);
  // Groups of 32: 127 is the largest absolute value of a group; two sums for each.
  void (*to_q8)(const float *x, int num_groups, int8_t *y, float *scales, int32_t *sums);
  // One head's key or value: codes, and their scale, with which 127 is the largest absolute value. Where a value is not
  // finite all codes are 0 and the scale is no number.
  float (*to_codes)(const float *x, int count, int8_t *codes);
  // Codes [rows, length], `stride` bytes from row to row, as numbers: float32 [rows, length], or bfloat16 in pairs of rows
  // [rows / 2, length, 2]. Both hold codes exactly. `length` is a multiple of 16.
  void (*widen_f32)(const int8_t *codes, int num_rows, int length, std::size_t stride, float *y);
  void (*widen_f16)(const uint16_t *halves, int num_rows, int length, std::size_t stride, float *y); // `stride` in values
  void (*widen_bf16)(const int8_t *codes, int num_rows, int length, std::size_t stride, uint16_t *y);
};

const Kernels *plain_kernels();
#if defined(__x86_64__) || defined(_M_X64)
const Kernels *avx2_kernels();
const Kernels *avx512_kernels();
const Kernels *avx512_bf16_kernels();
const Kernels *amx_kernels();
#elif defined(__aarch64__)
const Kernels *neon_kernels();
#endif

} // namespace hc
