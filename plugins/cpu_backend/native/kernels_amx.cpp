// AVX512 with matrix units (AMX, Intel from Sapphire Rapids): 16 rows by 16 outputs at once.
//
// A group of a panel of bfloat16 is four matrices side by side as it lies. The sums differ in their last bits from those
// of vectors, so that matrices compute them from one row on. Matrices of bytes gained nothing over vectors, for their sums
// have to be scaled behind each group.

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
    fetch(ahead, 0, kColumns, kGroupBytes);
    _tile_loadd(4, values + g * kGroup, tile.input.stride * sizeof(uint16_t));
    _tile_loadd(5, panel, kRowBytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, panel + kMatrixBytes, kRowBytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, panel + 2 * kMatrixBytes, kRowBytes);
    _tile_dpbf16ps(2, 4, 7);
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

constexpr Kernels make_amx_kernels() {
  Kernels k = make_kernels("amx");
  k.matrix_bf16 = matrix_bf16;
  return k;
}

constinit const Kernels kernels = make_amx_kernels();

} // namespace

const Kernels *amx_kernels() { return &kernels; }
} // namespace hc
