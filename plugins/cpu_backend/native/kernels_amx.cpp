// AVX512 with matrix units (AMX, Intel from Sapphire Rapids): 16 rows by 16 outputs at once.
//
// Linears: a group of a panel of bfloat16 is four matrices side by side as it lies. The sums differ in their last bits from
// those of vectors, so that matrices compute them from one row on. Attention: keys and values of bfloat16 lie in their
// blocks as matrices, too. Quantized weights stay with the vectors: sums of bytes have to be stored and scaled behind each
// group, so that matrices gained a third from 64 rows on, and nothing up to 16.

#include "isa_avx512.hpp"

#include "kernels.inc.hpp"

namespace hc {
namespace {

constexpr int kMatrixRows = 16;
constexpr int kMatrixGroups = 16; // that several matrices of rows take at once: the cache keeps them meanwhile
constexpr std::size_t kRowBytes = 2 * kPanel * sizeof(uint16_t); // of a panel: a pair of each output
constexpr std::size_t kSumBytes = kPanel * sizeof(float); // of a row of sums
constexpr std::size_t kMatrixBytes = 64; // of a matrix's row
constexpr std::size_t kGroupBytes = std::size_t(kGroup) * kPanel * sizeof(uint16_t);

// What the processor is told of its eight matrices.
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int matrix, int num_rows, int bytes) {
    rows[matrix] = uint8_t(num_rows);
    row_bytes[matrix] = uint16_t(bytes);
  }
};
static_assert(sizeof(Shapes) == 64);

// The processor forgets its matrices behind a task: switching threads would save them.
struct Matrices {
  explicit Matrices(const Shapes &shapes) { _tile_loadconfig(&shapes); }
  ~Matrices() { _tile_release(); }
  Matrices(const Matrices &) = delete;
};

// ---- linears ----------------------------------------------------------------------------------------------------

// Matrices 0 … 3 are sums, 4 the rows' values, 5 to 7 weights.
void few_rows(const Tile &tile, int first_row) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const uint16_t *values = input_row<uint16_t>(tile, first_row);
  float *sums = tile.sums + first_row * kPanel;
  const std::byte *panel = tile.panel, *ahead = tile.ahead;
  for (int g = 0; g < tile.num_groups; ++g, panel += kGroupBytes, ahead += kGroupBytes) {
    fetch(ahead, 0, 1, kGroupBytes);
    _tile_loadd(4, values + g * kGroup, tile.input.stride * sizeof(uint16_t));
    _tile_loadd(5, panel, kRowBytes);
    _tile_dpbf16ps(0, 4, 5);
    fetch(ahead, 1, 1, kGroupBytes);
    _tile_loadd(6, panel + kMatrixBytes, kRowBytes);
    _tile_dpbf16ps(1, 4, 6);
    fetch(ahead, 2, 1, kGroupBytes);
    _tile_loadd(7, panel + 2 * kMatrixBytes, kRowBytes);
    _tile_dpbf16ps(2, 4, 7);
    fetch(ahead, 3, 1, kGroupBytes);
    _tile_loadd(5, panel + 3 * kMatrixBytes, kRowBytes);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, sums, kSumBytes);
  _tile_stored(1, sums + 16, kSumBytes);
  _tile_stored(2, sums + 32, kSumBytes);
  _tile_stored(3, sums + 48, kSumBytes);
}

// Two matrices of rows with half a panel: matrices 0 … 3 are sums, 4 and 5 values of the rows, 6 and 7 weights.
constexpr int kLowerMatrices[] = {2, 3, 5};

void two_by_two(const Tile &tile, int first_row, int first_group, int num_groups, int half) {
  float *upper = tile.sums + first_row * kPanel + half * 32, *lower = upper + kMatrixRows * kPanel;
  if (first_group == 0) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, upper, kSumBytes);
    _tile_loadd(1, upper + 16, kSumBytes);
    _tile_loadd(2, lower, kSumBytes);
    _tile_loadd(3, lower + 16, kSumBytes);
  }
  const std::size_t stride = tile.input.stride * sizeof(uint16_t);
  const uint16_t *values = input_row<uint16_t>(tile, first_row) + first_group * kGroup;
  const uint16_t *lower_values = values + kMatrixRows * tile.input.stride;
  const std::byte *panel = tile.panel + std::size_t(first_group) * kGroupBytes + std::size_t(half) * 2 * kMatrixBytes;
  const bool fetches = first_row == 0;
  for (int g = 0; g < num_groups; ++g, panel += kGroupBytes) {
    if (fetches) fetch(panel + std::size_t(kMatrixGroups) * kGroupBytes, 0, kColumns / 2, kGroupBytes);
    _tile_loadd(6, panel, kRowBytes);
    _tile_loadd(4, values + g * kGroup, stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + kMatrixBytes, kRowBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, lower_values + g * kGroup, stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, upper, kSumBytes);
  _tile_stored(1, upper + 16, kSumBytes);
  _tile_stored(2, lower, kSumBytes);
  _tile_stored(3, lower + 16, kSumBytes);
}

// Rows from `first` to `end` in pairs of matrices. The processor has been told how many the second one of a pair has.
void pairs_of_matrices(const Tile &tile, int first, int end) {
  for (int group = 0; group < tile.num_groups; group += kMatrixGroups) {
    const int num_groups = tile.num_groups - group < kMatrixGroups ? tile.num_groups - group : kMatrixGroups;
    for (int row = first; row < end; row += 2 * kMatrixRows)
      for (int half = 0; half < 2; ++half) two_by_two(tile, row, group, num_groups, half);
  }
}

void matrix_bf16(const Tile &tile, int num_rows) {
  const int rest = num_rows % (2 * kMatrixRows), whole = num_rows - rest;
  Shapes shapes;
  for (int i = 0; i < 8; ++i) shapes.set(i, kMatrixRows, kMatrixBytes);
  if (whole > 0) {
    const Matrices matrices(shapes);
    pairs_of_matrices(tile, 0, whole);
  }
  if (rest > kMatrixRows) {
    for (int i : kLowerMatrices) shapes.set(i, rest - kMatrixRows, kMatrixBytes);
    const Matrices matrices(shapes);
    pairs_of_matrices(tile, whole, num_rows);
  } else if (rest > 0) {
    for (int i = 0; i < 5; ++i) shapes.set(i, rest, kMatrixBytes);
    const Matrices matrices(shapes);
    few_rows(tile, whole);
  }
}

// ---- attention --------------------------------------------------------------------------------------------------

constexpr int kFour[] = {0, 1, 2, 3};

// Matrices 0 … 3 are scores of a piece of keys each, 4 queries, 5 keys; 6 and 7 are the same of the last 16 dimensions.
template <int Rows> void matrix_scores(const Scores &s) {
  Shapes shapes;
  for (int i : kFour) shapes.set(i, Rows, kMatrixBytes);
  shapes.set(4, Rows, kMatrixBytes);
  shapes.set(5, kMatrixRows, kMatrixBytes);
  shapes.set(6, Rows, kMatrixBytes / 2);
  shapes.set(7, kMatrixRows / 2, kMatrixBytes);
  const Matrices matrices(shapes);

  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const uint16_t *queries = static_cast<const uint16_t *>(s.queries);
  const std::size_t query_bytes = std::size_t(s.head_dim) * sizeof(uint16_t);
  int d = 0;
  for (; d + 2 * kMatrixRows <= s.head_dim; d += 2 * kMatrixRows) {
    const std::size_t at = std::size_t(d / 2) * s.stride;
    _tile_loadd(4, queries + d, query_bytes);
    _tile_loadd(5, s.pieces[0] + at, s.stride);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(5, s.pieces[1] + at, s.stride);
    _tile_dpbf16ps(1, 4, 5);
    _tile_loadd(5, s.pieces[2] + at, s.stride);
    _tile_dpbf16ps(2, 4, 5);
    _tile_loadd(5, s.pieces[3] + at, s.stride);
    _tile_dpbf16ps(3, 4, 5);
  }
  if (d < s.head_dim) {
    const std::size_t at = std::size_t(d / 2) * s.stride;
    _tile_loadd(6, queries + d, query_bytes);
    _tile_loadd(7, s.pieces[0] + at, s.stride);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, s.pieces[1] + at, s.stride);
    _tile_dpbf16ps(1, 6, 7);
    _tile_loadd(7, s.pieces[2] + at, s.stride);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(7, s.pieces[3] + at, s.stride);
    _tile_dpbf16ps(3, 6, 7);
  }
  constexpr std::size_t score_bytes = kChunk * sizeof(float);
  _tile_stored(0, s.scores, score_bytes);
  _tile_stored(1, s.scores + kPiece, score_bytes);
  _tile_stored(2, s.scores + 2 * kPiece, score_bytes);
  _tile_stored(3, s.scores + 3 * kPiece, score_bytes);
}

// 16 dimensions of the outputs: matrix 0 is sums, 4 weights of a piece, 5 its values.
inline void mix_narrow(const Mixture &m, int first, std::size_t output_bytes) {
  const uint16_t *weights = static_cast<const uint16_t *>(m.weights);
  _tile_loadd(0, m.outputs + first, output_bytes);
  for (int p = 0; p < kPieces; ++p) {
    _tile_loadd(4, weights + p * kPiece, kChunk * sizeof(uint16_t));
    _tile_loadd(5, m.pieces[p] + std::size_t(first) * 4, m.stride);
    _tile_dpbf16ps(0, 4, 5);
  }
  _tile_stored(0, m.outputs + first, output_bytes);
}

// 64 dimensions: matrices 0 … 3 are sums.
inline void mix_wide(const Mixture &m, int first, std::size_t output_bytes) {
  const uint16_t *weights = static_cast<const uint16_t *>(m.weights);
  float *outputs = m.outputs + first;
  _tile_loadd(0, outputs, output_bytes);
  _tile_loadd(1, outputs + 16, output_bytes);
  _tile_loadd(2, outputs + 32, output_bytes);
  _tile_loadd(3, outputs + 48, output_bytes);
  for (int p = 0; p < kPieces; ++p) {
    const std::byte *values = m.pieces[p] + std::size_t(first) * 4;
    _tile_loadd(4, weights + p * kPiece, kChunk * sizeof(uint16_t));
    _tile_loadd(5, values, m.stride);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(5, values + kMatrixBytes, m.stride);
    _tile_dpbf16ps(1, 4, 5);
    _tile_loadd(5, values + 2 * kMatrixBytes, m.stride);
    _tile_dpbf16ps(2, 4, 5);
    _tile_loadd(5, values + 3 * kMatrixBytes, m.stride);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, outputs, output_bytes);
  _tile_stored(1, outputs + 16, output_bytes);
  _tile_stored(2, outputs + 32, output_bytes);
  _tile_stored(3, outputs + 48, output_bytes);
}

template <int Rows> void matrix_mixture(const Mixture &m) {
  for (int r = 0; r < Rows; ++r)
    for (int d = 0; d < m.head_dim; d += kWidth) {
      float *output = m.outputs + r * m.head_dim + d;
      Isa::store(output, Isa::mul(Isa::load(output), Isa::set1(m.keep[r])));
    }
  asm volatile("" ::: "memory"); // compilers don't know that matrices are loaded from memory

  Shapes shapes;
  for (int i : kFour) shapes.set(i, Rows, kMatrixBytes);
  shapes.set(4, Rows, kMatrixBytes / 2);
  shapes.set(5, kMatrixRows / 2, kMatrixBytes);
  const Matrices matrices(shapes);
  const std::size_t output_bytes = std::size_t(m.head_dim) * sizeof(float);
  int first = 0;
  for (; first + 64 <= m.head_dim; first += 64) mix_wide(m, first, output_bytes);
  for (; first < m.head_dim; first += 16) mix_narrow(m, first, output_bytes);
}

constexpr Kernels make_amx_kernels() {
  Kernels k = make_kernels("amx");
  k.matrix_bf16 = matrix_bf16;
  const ScoresFunction scores[] = HC_ROWS(matrix_scores);
  const MixtureFunction mixture[] = HC_ROWS(matrix_mixture);
  for (int r = 0; r < kTileRows; ++r) {
    k.scores_bf16[r] = scores[r];
    k.mixture_bf16[r] = mixture[r];
  }
  return k;
}

constinit const Kernels kernels = make_amx_kernels();

} // namespace

const Kernels *amx_kernels() { return &kernels; }
} // namespace hc
