// All kernels, written once over a vector type `Isa` that each kind of processor defines before it includes this file.
//
// Everything is in a nameless namespace and uses no function of the standard library: the file is compiled several times
// for different processors, and a function that the linker shared among them could hold instructions that one lacks.

#include "kernels.hpp"

namespace hc {
namespace {

using F = Isa::F;
constexpr int kWidth = Isa::kWidth;
constexpr int kColumns = kPanel / kWidth; // vectors of a panel

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float bf16_value(uint16_t bits) { return from_bits(uint32_t(bits) << 16); }

// Round to nearest, ties to even, as processors and frameworks do; NaN stays NaN.
inline uint16_t bf16_bits(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline uint32_t pair_at(const uint16_t *values) {
  uint32_t pair;
  __builtin_memcpy(&pair, values, sizeof pair);
  return pair;
}

// Fetches the part of one row of a panel, `row_bytes` long, that belongs to `width` vectors from `first` on.
inline void fetch(const std::byte *row, int first, int width, std::size_t row_bytes) {
  const std::size_t begin = row_bytes * std::size_t(first) / kColumns, end = row_bytes * std::size_t(first + width) / kColumns;
  for (std::size_t at = begin; at < end; at += 64) __builtin_prefetch(row + at, 0, 2);
}

// ---- linears ----------------------------------------------------------------------------------------------------

template <class T> inline const T *input_row(const Tile &tile, int row) {
  return static_cast<const T *>(tile.input.values) + (tile.first_row + row) * tile.input.stride +
         std::size_t(tile.first_group) * kGroup;
}

constexpr std::size_t kScaleBytes = kPanel * sizeof(uint16_t);
constexpr std::size_t kWideBytes = kPanel * sizeof(float);

// Vectors of a panel that a pass computes: as many as the registers hold beside the weights.
template <int Rows> constexpr int columns_at_once() {
  constexpr int fitting = (Isa::kRegisters - 4) / Rows;
  return fitting >= kColumns ? kColumns : fitting >= kColumns / 2 ? kColumns / 2 : fitting >= kColumns / 4 ? kColumns / 4 : 1;
}

// The same where a group has sums of its own beside those of the pass.
template <int Rows> constexpr int quantized_columns() {
  constexpr int fitting = (Isa::kRegisters - 4) / (2 * Rows);
  return fitting >= kColumns ? kColumns : fitting >= kColumns / 2 ? kColumns / 2 : fitting >= kColumns / 4 ? kColumns / 4 : 1;
}

// A pass over the groups for `Width` vectors of the panel, from vector `first` on. `Step` adds one group.
template <int Rows, int Width, class Step> inline void pass(const Tile &tile, int first, std::size_t group_bytes, Step step) {
  F sums[Rows][Width];
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Width; ++c)
      sums[r][c] = tile.is_first ? Isa::zero() : Isa::load(tile.sums + r * kPanel + (first + c) * kWidth);

  const std::byte *panel = tile.panel;
  const std::byte *ahead = tile.ahead;
  for (int g = 0; g < tile.num_groups; ++g, panel += group_bytes, ahead += group_bytes) step(panel, ahead, g, sums);

  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Width; ++c) Isa::store(tile.sums + r * kPanel + (first + c) * kWidth, sums[r][c]);
}

inline F load_weights(const float *p) { return Isa::load(p); }
inline F load_weights(const uint16_t *p) { return Isa::load_f16(p); }

// Weights that lie one by one: float32, or float16.
template <int Rows, class Stored> void tile_singles(const Tile &tile) {
  constexpr int width = columns_at_once<Rows>();
  const float *rows[Rows];
  for (int r = 0; r < Rows; ++r) rows[r] = input_row<float>(tile, r);
  for (int first = 0; first < kColumns; first += width)
    pass<Rows, width>(tile, first, kGroup * kPanel * sizeof(Stored), [&](const std::byte *panel, const std::byte *ahead, int g, F(&sums)[Rows][width]) {
      const Stored *weights = reinterpret_cast<const Stored *>(panel) + first * kWidth;
      for (int k = 0; k < kGroup; ++k, weights += kPanel) {
        if (tile.fetches >> k & 1) fetch(ahead + std::size_t(k) * kPanel * sizeof(Stored), first, width, kPanel * sizeof(Stored));
        F w[width];
        for (int c = 0; c < width; ++c) w[c] = load_weights(weights + c * kWidth);
        for (int r = 0; r < Rows; ++r) {
          const F a = Isa::set1(rows[r][g * kGroup + k]);
          for (int c = 0; c < width; ++c) sums[r][c] = Isa::fma(a, w[c], sums[r][c]);
        }
      }
    });
}

// E4M3: 64 factors in float32, then [kGroup][kPanel] bytes. Each group has sums of its own, which are then scaled.
template <int Rows> void tile_f8(const Tile &tile) {
  constexpr int width = quantized_columns<Rows>();
  const float *rows[Rows];
  for (int r = 0; r < Rows; ++r) rows[r] = input_row<float>(tile, r);
  for (int first = 0; first < kColumns; first += width)
    pass<Rows, width>(tile, first, kWideBytes + kGroup * kPanel, [&](const std::byte *panel, const std::byte *ahead, int g, F(&sums)[Rows][width]) {
      F parts[Rows][width];
      for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < width; ++c) parts[r][c] = Isa::zero();
      const std::byte *weights = panel + kWideBytes + first * kWidth;
      for (int k = 0; k < kGroup; ++k, weights += kPanel) {
        if (tile.fetches >> k & 1) fetch(ahead + std::size_t(k) * kPanel, first, width, kPanel);
        F w[width];
        for (int c = 0; c < width; ++c) w[c] = Isa::load_f8(weights + c * kWidth);
        for (int r = 0; r < Rows; ++r) {
          const F a = Isa::set1(rows[r][g * kGroup + k]);
          for (int c = 0; c < width; ++c) parts[r][c] = Isa::fma(a, w[c], parts[r][c]);
        }
      }
      const float *factors = reinterpret_cast<const float *>(panel) + first * kWidth;
      for (int c = 0; c < width; ++c) {
        const F factor = Isa::mul(Isa::load(factors + c * kWidth), Isa::set1(256.0f)); // `load_f8` leaves it out
        for (int r = 0; r < Rows; ++r) sums[r][c] = Isa::fma(parts[r][c], factor, sums[r][c]);
      }
    });
}

// Pairs of the input's values lie together: [kGroup / 2][kPanel][2].
template <int Rows> void tile_bf16_f32(const Tile &tile) {
  constexpr int width = columns_at_once<Rows>();
  const float *rows[Rows];
  for (int r = 0; r < Rows; ++r) rows[r] = input_row<float>(tile, r);
  for (int first = 0; first < kColumns; first += width)
    pass<Rows, width>(tile, first, kGroup * kPanel * sizeof(uint16_t), [&](const std::byte *panel, const std::byte *ahead, int g, F(&sums)[Rows][width]) {
      const uint16_t *weights = reinterpret_cast<const uint16_t *>(panel) + 2 * first * kWidth;
      for (int k = 0; k < kGroup; k += 2, weights += 2 * kPanel) {
        if (tile.fetches >> (k / 2) & 1) fetch(ahead + std::size_t(k) * kPanel * sizeof(uint16_t), first, width, 2 * kPanel * sizeof(uint16_t));
        F even[width], odd[width];
        for (int c = 0; c < width; ++c) Isa::split_pairs(weights + 2 * c * kWidth, even[c], odd[c]);
        for (int r = 0; r < Rows; ++r) {
          const F a = Isa::set1(rows[r][g * kGroup + k]);
          const F b = Isa::set1(rows[r][g * kGroup + k + 1]);
          for (int c = 0; c < width; ++c) {
            sums[r][c] = Isa::fma(a, even[c], sums[r][c]);
            sums[r][c] = Isa::fma(b, odd[c], sums[r][c]);
          }
        }
      }
    });
}

template <int Rows> void tile_bf16_bf16(const Tile &tile) {
  constexpr int width = columns_at_once<Rows>();
  const uint16_t *rows[Rows];
  for (int r = 0; r < Rows; ++r) rows[r] = input_row<uint16_t>(tile, r);
  for (int first = 0; first < kColumns; first += width)
    pass<Rows, width>(tile, first, kGroup * kPanel * sizeof(uint16_t), [&](const std::byte *panel, const std::byte *ahead, int g, F(&sums)[Rows][width]) {
      const uint16_t *weights = reinterpret_cast<const uint16_t *>(panel) + 2 * first * kWidth;
      for (int k = 0; k < kGroup; k += 2, weights += 2 * kPanel) {
        if (tile.fetches >> (k / 2) & 1) fetch(ahead + std::size_t(k) * kPanel * sizeof(uint16_t), first, width, 2 * kPanel * sizeof(uint16_t));
        Isa::Pairs w[width];
        for (int c = 0; c < width; ++c) w[c] = Isa::load_pairs(weights + 2 * c * kWidth);
        for (int r = 0; r < Rows; ++r) {
          const Isa::Pairs a = Isa::set1_pair(pair_at(rows[r] + g * kGroup + k));
          for (int c = 0; c < width; ++c) sums[r][c] = Isa::dot_pairs(sums[r][c], w[c], a);
        }
      }
    });
}

// A group of 8 bit: 64 scales in float16, then [8][kPanel][4] weights + 128. Of 4 bit: scales, minima where there are
// any, then [4][kPanel][4] bytes; the low half of byte [i] belongs to inputs 4i…, the high half to inputs 16 + 4i….
// Wide ones have the same with scales in float32, of 8 bit two for each group, as many minima behind them. With minima
// that are not wide, bytes are the numbers themselves, and nothing is added to them.
template <int Rows> struct QuantizedRows {
  const int8_t *values[Rows];
  const float *scales[Rows];
  const int32_t *sums[Rows];

  explicit QuantizedRows(const Tile &tile) {
    const std::size_t groups = tile.input.stride / kGroup;
    for (int r = 0; r < Rows; ++r) {
      values[r] = input_row<int8_t>(tile, r);
      scales[r] = tile.input.scales + (tile.first_row + r) * groups + tile.first_group;
      sums[r] = tile.input.sums + 2 * ((tile.first_row + r) * groups + tile.first_group);
    }
  }

  int32_t sum(int row, int group) const { return sums[row][2 * group] + sums[row][2 * group + 1]; }
};

inline int32_t four_at(const int8_t *values) {
  int32_t four;
  __builtin_memcpy(&four, values, sizeof four);
  return four;
}

template <int Rows, bool HasMin> void tile_q8(const Tile &tile) {
  constexpr int width = quantized_columns<Rows>();
  constexpr std::size_t head_bytes = HasMin ? 2 * kScaleBytes : kScaleBytes;
  const QuantizedRows<Rows> rows(tile);
  for (int first = 0; first < kColumns; first += width)
    pass<Rows, width>(tile, first, head_bytes + kGroup * kPanel, [&](const std::byte *panel, const std::byte *ahead, int g, F(&sums)[Rows][width]) {
      Isa::I dots[Rows][width];
      for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < width; ++c) dots[r][c] = Isa::set1_int(HasMin ? 0 : -128 * rows.sum(r, g));
      const std::byte *weights = panel + head_bytes + 4 * first * kWidth;
      for (int k = 0; k < kGroup; k += 4, weights += 4 * kPanel) {
        if (tile.fetches >> (k / 4) & 1) fetch(ahead + std::size_t(k) * kPanel, first, width, 4 * kPanel);
        Isa::I w[width];
        for (int c = 0; c < width; ++c) w[c] = Isa::load_bytes(weights + 4 * c * kWidth);
        for (int r = 0; r < Rows; ++r) {
          const Isa::I a = Isa::set1_int(four_at(rows.values[r] + g * kGroup + k));
          for (int c = 0; c < width; ++c) dots[r][c] = Isa::dot_bytes(dots[r][c], w[c], a);
        }
      }
      const uint16_t *scales = reinterpret_cast<const uint16_t *>(panel) + first * kWidth;
      for (int c = 0; c < width; ++c) {
        const F scale = Isa::load_f16(scales + c * kWidth);
        for (int r = 0; r < Rows; ++r) {
          F part = Isa::mul(Isa::to_float(dots[r][c]), scale);
          if (HasMin) part = Isa::fma(Isa::load_f16(scales + kPanel + c * kWidth), Isa::set1(float(rows.sum(r, g))), part);
          sums[r][c] = Isa::fma(part, Isa::set1(rows.scales[r][g]), sums[r][c]);
        }
      }
    });
}

template <bool IsWide> inline F load_scales(const std::byte *p) {
  if constexpr (IsWide) return Isa::load(reinterpret_cast<const float *>(p));
  else return Isa::load_f16(reinterpret_cast<const uint16_t *>(p));
}

// What four bits mean: a number less 8, or with a minimum, or less a zero point; or the place of a number in a table.
enum Nibbles { kLess8, kWithMinima, kWithWideMinima, kWithZeros, kFp4, kNonLinear };

// Tables have what is `less` added to their numbers, so that these are unsigned. The scales of E2M1 are bfloat16.
constexpr uint8_t kFp4Numbers[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
constexpr uint8_t kNonLinearNumbers[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

template <int Rows, Nibbles Kind> void tile_q4(const Tile &tile) {
  constexpr int width = quantized_columns<Rows>();
  constexpr bool is_wide = Kind == kWithWideMinima, has_min = Kind == kWithMinima || is_wide, has_table = Kind == kFp4 || Kind == kNonLinear;
  constexpr int less = Kind == kLess8 ? 8 : Kind == kFp4 ? 12 : Kind == kNonLinear ? 128 : 0;
  constexpr std::size_t scale_bytes = is_wide ? kWideBytes : kScaleBytes;
  constexpr std::size_t head_bytes = has_min || Kind == kWithZeros ? 2 * scale_bytes : scale_bytes;
  const Isa::I table = Isa::load_table(Kind == kFp4 ? kFp4Numbers : kNonLinearNumbers);
  const QuantizedRows<Rows> rows(tile);
  for (int first = 0; first < kColumns; first += width)
    pass<Rows, width>(tile, first, head_bytes + kGroup * kPanel / 2, [&](const std::byte *panel, const std::byte *ahead, int g, F(&sums)[Rows][width]) {
      Isa::I dots[Rows][width];
      for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < width; ++c) dots[r][c] = Isa::set1_int(-less * rows.sum(r, g));
      const std::byte *weights = panel + head_bytes + 4 * first * kWidth;
      for (int k = 0; k < kGroup / 2; k += 4, weights += 4 * kPanel) {
        if (tile.fetches >> (k / 4) & 1) fetch(ahead + std::size_t(k) * kPanel, first, width, 4 * kPanel);
        Isa::I low[width], high[width];
        for (int c = 0; c < width; ++c) {
          Isa::split_nibbles(weights + 4 * c * kWidth, low[c], high[c]);
          if (has_table) low[c] = Isa::look_up(table, low[c]), high[c] = Isa::look_up(table, high[c]);
        }
        for (int r = 0; r < Rows; ++r) {
          const Isa::I a = Isa::set1_int(four_at(rows.values[r] + g * kGroup + k));
          const Isa::I b = Isa::set1_int(four_at(rows.values[r] + g * kGroup + kGroup / 2 + k));
          for (int c = 0; c < width; ++c) {
            dots[r][c] = Isa::dot_bytes(dots[r][c], low[c], a);
            dots[r][c] = Isa::dot_bytes(dots[r][c], high[c], b);
          }
        }
      }
      for (int c = 0; c < width; ++c) {
        const std::byte *scales = panel + (first + c) * kWidth * (is_wide ? 4 : 2);
        const F scale = Kind == kFp4 ? Isa::load_bf16(reinterpret_cast<const uint16_t *>(scales)) : load_scales<is_wide>(scales);
        for (int r = 0; r < Rows; ++r) {
          F part = Isa::to_float(dots[r][c]);
          if (Kind == kWithZeros) part = Isa::fma(load_scales<false>(scales + scale_bytes), Isa::set1(float(-rows.sum(r, g))), part);
          part = Isa::mul(part, scale);
          if (has_min) part = Isa::fma(load_scales<is_wide>(scales + scale_bytes), Isa::set1(float(rows.sum(r, g))), part);
          sums[r][c] = Isa::fma(part, Isa::set1(rows.scales[r][g]), sums[r][c]);
        }
      }
    });
}

template <int Rows, bool HasMin> void tile_q8_wide(const Tile &tile) {
  constexpr int width = quantized_columns<Rows>();
  constexpr std::size_t head_bytes = (HasMin ? 4 : 2) * kWideBytes;
  const QuantizedRows<Rows> rows(tile);
  for (int first = 0; first < kColumns; first += width)
    pass<Rows, width>(tile, first, head_bytes + kGroup * kPanel, [&](const std::byte *panel, const std::byte *ahead, int g, F(&sums)[Rows][width]) {
      const std::byte *weights = panel + head_bytes + 4 * first * kWidth;
      for (int half = 0; half < 2; ++half) {
        Isa::I dots[Rows][width];
        for (int r = 0; r < Rows; ++r)
          for (int c = 0; c < width; ++c) dots[r][c] = Isa::set1_int(-128 * rows.sums[r][2 * g + half]);
        for (int k = half * kGroup / 2; k < (half + 1) * kGroup / 2; k += 4, weights += 4 * kPanel) {
          if (tile.fetches >> (k / 4) & 1) fetch(ahead + std::size_t(k) * kPanel, first, width, 4 * kPanel);
          Isa::I w[width];
          for (int c = 0; c < width; ++c) w[c] = Isa::load_bytes(weights + 4 * c * kWidth);
          for (int r = 0; r < Rows; ++r) {
            const Isa::I a = Isa::set1_int(four_at(rows.values[r] + g * kGroup + k));
            for (int c = 0; c < width; ++c) dots[r][c] = Isa::dot_bytes(dots[r][c], w[c], a);
          }
        }
        for (int c = 0; c < width; ++c) {
          const std::byte *scales = panel + half * kWideBytes + (first + c) * kWidth * 4;
          const F scale = load_scales<true>(scales);
          for (int r = 0; r < Rows; ++r) {
            F part = Isa::mul(Isa::to_float(dots[r][c]), scale);
            if (HasMin) part = Isa::fma(load_scales<true>(scales + 2 * kWideBytes), Isa::set1(float(rows.sums[r][2 * g + half])), part);
            sums[r][c] = Isa::fma(part, Isa::set1(rows.scales[r][g]), sums[r][c]);
          }
        }
      }
    });
}

// ---- attention --------------------------------------------------------------------------------------------------

constexpr int kPieces = kChunk / kPiece;
constexpr int kPieceVectors = kPiece / kWidth;

template <int Rows> constexpr int pieces_at_once() {
  constexpr int fitting = (Isa::kRegisters - 4) / (Rows * kPieceVectors);
  return fitting >= kPieces ? kPieces : fitting >= kPieces / 2 ? kPieces / 2 : 1;
}

template <int Rows> void scores_f32(const Scores &s) {
  constexpr int count = pieces_at_once<Rows>();
  const float *queries = static_cast<const float *>(s.queries);
  for (int first = 0; first < kPieces; first += count) {
    F sums[Rows][count][kPieceVectors];
    for (int r = 0; r < Rows; ++r)
      for (int p = 0; p < count; ++p)
        for (int v = 0; v < kPieceVectors; ++v) sums[r][p][v] = Isa::zero();
    for (int d = 0; d < s.head_dim; ++d) {
      F keys[count][kPieceVectors];
      for (int p = 0; p < count; ++p)
        for (int v = 0; v < kPieceVectors; ++v)
          keys[p][v] = Isa::load(reinterpret_cast<const float *>(s.pieces[first + p] + d * s.stride) + v * kWidth);
      for (int r = 0; r < Rows; ++r) {
        const F q = Isa::set1(queries[r * s.head_dim + d]);
        for (int p = 0; p < count; ++p)
          for (int v = 0; v < kPieceVectors; ++v) sums[r][p][v] = Isa::fma(q, keys[p][v], sums[r][p][v]);
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int p = 0; p < count; ++p)
        for (int v = 0; v < kPieceVectors; ++v)
          Isa::store(s.scores + r * kChunk + (first + p) * kPiece + v * kWidth, sums[r][p][v]);
  }
}

template <int Rows> void scores_bf16(const Scores &s) {
  constexpr int count = pieces_at_once<Rows>();
  const uint16_t *queries = static_cast<const uint16_t *>(s.queries);
  for (int first = 0; first < kPieces; first += count) {
    F sums[Rows][count][kPieceVectors];
    for (int r = 0; r < Rows; ++r)
      for (int p = 0; p < count; ++p)
        for (int v = 0; v < kPieceVectors; ++v) sums[r][p][v] = Isa::zero();
    for (int d = 0; d < s.head_dim / 2; ++d) {
      Isa::Pairs keys[count][kPieceVectors];
      for (int p = 0; p < count; ++p)
        for (int v = 0; v < kPieceVectors; ++v)
          keys[p][v] = Isa::load_pairs(reinterpret_cast<const uint16_t *>(s.pieces[first + p] + d * s.stride) + 2 * v * kWidth);
      for (int r = 0; r < Rows; ++r) {
        const Isa::Pairs q = Isa::set1_pair(pair_at(queries + r * s.head_dim + 2 * d));
        for (int p = 0; p < count; ++p)
          for (int v = 0; v < kPieceVectors; ++v) sums[r][p][v] = Isa::dot_pairs(sums[r][p][v], keys[p][v], q);
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int p = 0; p < count; ++p)
        for (int v = 0; v < kPieceVectors; ++v)
          Isa::store(s.scores + r * kChunk + (first + p) * kPiece + v * kWidth, sums[r][p][v]);
  }
}

template <int Rows, int Width> inline void mix_f32(const Mixture &m, int first) {
  const float *weights = static_cast<const float *>(m.weights);
  F sums[Rows][Width];
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Width; ++c)
      sums[r][c] = Isa::mul(Isa::load(m.outputs + r * m.head_dim + first + c * kWidth), Isa::set1(m.keep[r]));
  for (int p = 0; p < kPieces; ++p)
    for (int t = 0; t < kPiece; ++t) {
      const float *values = reinterpret_cast<const float *>(m.pieces[p] + t * m.stride) + first;
      F v[Width];
      for (int c = 0; c < Width; ++c) v[c] = Isa::load(values + c * kWidth);
      for (int r = 0; r < Rows; ++r) {
        const F w = Isa::set1(weights[r * kChunk + p * kPiece + t]);
        for (int c = 0; c < Width; ++c) sums[r][c] = Isa::fma(w, v[c], sums[r][c]);
      }
    }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Width; ++c) Isa::store(m.outputs + r * m.head_dim + first + c * kWidth, sums[r][c]);
}

template <int Rows, int Width> inline void mix_bf16(const Mixture &m, int first) {
  const uint16_t *weights = static_cast<const uint16_t *>(m.weights);
  F sums[Rows][Width];
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Width; ++c)
      sums[r][c] = Isa::mul(Isa::load(m.outputs + r * m.head_dim + first + c * kWidth), Isa::set1(m.keep[r]));
  for (int p = 0; p < kPieces; ++p)
    for (int t = 0; t < kPiece / 2; ++t) {
      const uint16_t *values = reinterpret_cast<const uint16_t *>(m.pieces[p] + t * m.stride) + 2 * first;
      Isa::Pairs v[Width];
      for (int c = 0; c < Width; ++c) v[c] = Isa::load_pairs(values + 2 * c * kWidth);
      for (int r = 0; r < Rows; ++r) {
        const Isa::Pairs w = Isa::set1_pair(pair_at(weights + r * kChunk + p * kPiece + 2 * t));
        for (int c = 0; c < Width; ++c) sums[r][c] = Isa::dot_pairs(sums[r][c], v[c], w);
      }
    }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Width; ++c) Isa::store(m.outputs + r * m.head_dim + first + c * kWidth, sums[r][c]);
}

// Heads have a multiple of 16 dimensions; most of it is computed in the widest pass.
template <int Rows> void mixture_f32(const Mixture &m) {
  constexpr int wide = columns_at_once<Rows>();
  int first = 0;
  for (; first + wide * kWidth <= m.head_dim; first += wide * kWidth) mix_f32<Rows, wide>(m, first);
  for (; first < m.head_dim; first += kWidth) mix_f32<Rows, 1>(m, first);
}

template <int Rows> void mixture_bf16(const Mixture &m) {
  constexpr int wide = columns_at_once<Rows>();
  int first = 0;
  for (; first + wide * kWidth <= m.head_dim; first += wide * kWidth) mix_bf16<Rows, wide>(m, first);
  for (; first < m.head_dim; first += kWidth) mix_bf16<Rows, 1>(m, first);
}

// e^x to about two units in the last place (Cephes' polynomial); exactly 0 for -inf.
inline F exp_of(F x) {
  const F lowest = Isa::set1(-87.3f);
  const F bounded = Isa::max(Isa::min(x, Isa::set1(88.3f)), lowest);
  const F n = Isa::round(Isa::mul(bounded, Isa::set1(1.44269504088896341f)));
  F r = Isa::fma(n, Isa::set1(-0.693359375f), bounded);
  r = Isa::fma(n, Isa::set1(2.12194440e-4f), r);
  F p = Isa::set1(1.9875691500e-4f);
  p = Isa::fma(p, r, Isa::set1(1.3981999507e-3f));
  p = Isa::fma(p, r, Isa::set1(8.3334519073e-3f));
  p = Isa::fma(p, r, Isa::set1(4.1665795894e-2f));
  p = Isa::fma(p, r, Isa::set1(1.6666665459e-1f));
  p = Isa::fma(p, r, Isa::set1(5.0000001201e-1f));
  p = Isa::fma(p, Isa::mul(r, r), Isa::add(r, Isa::set1(1.0f)));
  return Isa::zero_where_less(Isa::times_power_of_two(p, n), x, lowest);
}

inline F tanh_of(F x) {
  const F bounded = Isa::max(Isa::min(x, Isa::set1(20.0f)), Isa::set1(-20.0f));
  const F e = exp_of(Isa::add(bounded, bounded));
  return Isa::sub(Isa::set1(1.0f), Isa::div(Isa::set1(2.0f), Isa::add(e, Isa::set1(1.0f))));
}

constexpr float kNothing = -__builtin_huge_valf();

void softmax(float *scores, int from, int to, float scale, float softcap, float *largest, float *total, float *keep) {
  F most = Isa::set1(kNothing);
  for (int i = 0; i < kChunk; i += kWidth) {
    F x = Isa::mul(Isa::load(scores + i), Isa::set1(scale));
    if (softcap > 0) x = Isa::mul(Isa::set1(softcap), tanh_of(Isa::div(x, Isa::set1(softcap))));
    Isa::store(scores + i, x);
  }
  for (int i = 0; i < from; ++i) scores[i] = kNothing;
  for (int i = to; i < kChunk; ++i) scores[i] = kNothing;
  for (int i = 0; i < kChunk; i += kWidth) most = Isa::max(most, Isa::load(scores + i));

  const float before = *largest;
  const float chunk_largest = Isa::largest(most);
  const float now = before > chunk_largest ? before : chunk_largest;
  if (now == kNothing) { // nothing was seen yet
    for (int i = 0; i < kChunk; i += kWidth) Isa::store(scores + i, Isa::zero());
    *keep = 1.0f;
    return;
  }

  F sum = Isa::zero();
  for (int i = 0; i < kChunk; i += kWidth) {
    const F weight = exp_of(Isa::sub(Isa::load(scores + i), Isa::set1(now)));
    Isa::store(scores + i, weight);
    sum = Isa::add(sum, weight);
  }
  float factor[kWidth];
  Isa::store(factor, exp_of(Isa::set1(before - now)));
  *keep = before == kNothing ? 0.0f : factor[0];
  *largest = now;
  *total = *total * *keep + Isa::sum(sum);
}

// ---- the rest ---------------------------------------------------------------------------------------------------

void rms_norm(const float *x, const float *weight, float eps, int count, float *y) {
  F squares = Isa::zero();
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const F v = Isa::load(x + i);
    squares = Isa::fma(v, v, squares);
  }
  float total = Isa::sum(squares);
  for (; i < count; ++i) total += x[i] * x[i];
  const float factor = 1.0f / __builtin_sqrtf(total / float(count) + eps);
  i = 0;
  for (; i + kWidth <= count; i += kWidth)
    Isa::store(y + i, Isa::mul(Isa::mul(Isa::load(x + i), Isa::set1(factor)), Isa::load(weight + i)));
  for (; i < count; ++i) y[i] = x[i] * factor * weight[i];
}

void layer_norm(const float *x, const float *weight, const float *bias, float eps, int count, float *y) {
  F sums = Isa::zero();
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) sums = Isa::add(sums, Isa::load(x + i));
  float total = Isa::sum(sums);
  for (; i < count; ++i) total += x[i];
  const float mean = total / float(count);
  F squares = Isa::zero();
  i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const F v = Isa::sub(Isa::load(x + i), Isa::set1(mean));
    squares = Isa::fma(v, v, squares);
  }
  float variance = Isa::sum(squares);
  for (; i < count; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / __builtin_sqrtf(variance / float(count) + eps);
  for (i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor * weight[i] + (bias == nullptr ? 0.0f : bias[i]);
}

void rope(float *x, const float *cos, const float *sin, int half, bool is_interleaved) {
  if (is_interleaved) {
    for (int i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      x[2 * i] = a * cos[i] - b * sin[i];
      x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
    return;
  }

  int i = 0;
  for (; i + kWidth <= half; i += kWidth) {
    const F a = Isa::load(x + i), b = Isa::load(x + half + i), c = Isa::load(cos + i), s = Isa::load(sin + i);
    Isa::store(x + i, Isa::sub(Isa::mul(a, c), Isa::mul(b, s)));
    Isa::store(x + half + i, Isa::add(Isa::mul(b, c), Isa::mul(a, s)));
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

// activation: hc_activation of histrio_cpu.h, without GELU by the error function, which `stage.cpp` computes.
inline F activated(F x, int activation) {
  if (activation == 0) return Isa::div(x, Isa::add(Isa::set1(1.0f), exp_of(Isa::sub(Isa::zero(), x))));
  const F cubic = Isa::fma(Isa::mul(Isa::mul(x, x), x), Isa::set1(0.044715f), x);
  const F t = tanh_of(Isa::mul(cubic, Isa::set1(0.7978845608028654f)));
  return Isa::mul(Isa::mul(Isa::set1(0.5f), x), Isa::add(Isa::set1(1.0f), t));
}

void gated(const float *gate, const float *up, int count, int activation, float *y) {
  for (int i = 0; i < count; i += kWidth)
    Isa::store(y + i, Isa::mul(activated(Isa::load(gate + i), activation), Isa::load(up + i)));
}

void gated_clipped(const float *gate, const float *up, int count, float alpha, float limit, float *y) {
  const F one = Isa::set1(1.0f), most = Isa::set1(limit), least = Isa::set1(-limit), slope = Isa::set1(-alpha);
  for (int i = 0; i < count; i += kWidth) {
    const F g = Isa::min(Isa::load(gate + i), most), u = Isa::max(Isa::min(Isa::load(up + i), most), least);
    const F silu = Isa::div(g, Isa::add(one, exp_of(Isa::mul(slope, g))));
    Isa::store(y + i, Isa::mul(Isa::add(u, one), silu));
  }
}

void activate(float *x, int count, int activation) {
  for (int i = 0; i < count; i += kWidth) Isa::store(x + i, activated(Isa::load(x + i), activation));
}

void add_scaled(float *y, const float *x, float scale, int count) {
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) Isa::store(y + i, Isa::fma(Isa::load(x + i), Isa::set1(scale), Isa::load(y + i)));
  for (; i < count; ++i) y[i] += x[i] * scale;
}

void to_bf16(const float *x, int count, uint16_t *y) {
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) Isa::store_bf16(y + i, Isa::load(x + i));
  for (; i < count; ++i) y[i] = bf16_bits(x[i]);
}

void to_q8(const float *x, int num_groups, int8_t *y, float *scales, int32_t *sums) {
  for (int g = 0; g < num_groups; ++g, x += kGroup, y += kGroup) {
    F most = Isa::zero();
    for (int i = 0; i < kGroup; i += kWidth) most = Isa::max(most, Isa::abs(Isa::load(x + i)));
    const float largest = Isa::largest(most);
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    float rounded[kGroup];
    for (int i = 0; i < kGroup; i += kWidth) Isa::store(rounded + i, Isa::round(Isa::mul(Isa::load(x + i), Isa::set1(inverse))));
    for (int half = 0; half < 2; ++half) {
      int32_t sum = 0;
      for (int i = half * kGroup / 2; i < (half + 1) * kGroup / 2; ++i) {
        const int32_t value = int32_t(rounded[i]);
        y[i] = int8_t(value);
        sum += value;
      }
      sums[2 * g + half] = sum;
    }
    scales[g] = largest / 127.0f;
  }
}

float to_codes(const float *x, int count, int8_t *codes) {
  F most = Isa::zero(), nothing = Isa::zero();
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const F v = Isa::load(x + i);
    most = Isa::max(most, Isa::abs(v));
    nothing = Isa::fma(v, Isa::zero(), nothing);
  }
  float largest = Isa::largest(most), not_finite = Isa::sum(nothing);
  for (; i < count; ++i) {
    const float v = x[i] < 0 ? -x[i] : x[i];
    largest = v > largest ? v : largest;
    not_finite += x[i] * 0.0f;
  }
  const float scale = largest / 127.0f + not_finite;
  const float divisor = scale >= __FLT_MIN__ ? scale : __builtin_huge_valf(); // of zeros alone, and of what is no number
  float rounded[kWidth];
  for (i = 0; i + kWidth <= count; i += kWidth) {
    Isa::store(rounded, Isa::round(Isa::div(Isa::load(x + i), Isa::set1(divisor))));
    for (int k = 0; k < kWidth; ++k) codes[i + k] = not_finite == 0 ? int8_t(int32_t(rounded[k])) : int8_t(0);
  }
  for (; i < count; ++i) codes[i] = not_finite == 0 ? int8_t(int32_t(__builtin_rintf(x[i] / divisor))) : int8_t(0);
  return scale;
}

void widen_f32(const int8_t *codes, int num_rows, int length, std::size_t stride, float *y) {
  for (int row = 0; row < num_rows; ++row, codes += stride, y += length)
    for (int i = 0; i < length; i += kWidth) Isa::store(y + i, Isa::load_codes(codes + i));
}

void widen_f16(const uint16_t *halves, int num_rows, int length, std::size_t stride, float *y) {
  for (int row = 0; row < num_rows; ++row, halves += stride, y += length)
    for (int i = 0; i < length; i += kWidth) Isa::store(y + i, Isa::load_f16(halves + i));
}

void widen_bf16(const int8_t *codes, int num_rows, int length, std::size_t stride, uint16_t *y) {
  for (int row = 0; row < num_rows; row += 2, codes += 2 * stride, y += 2 * length)
    for (int i = 0; i < length; i += kWidth) Isa::store_pairs(y + 2 * i, Isa::load_codes(codes + i), Isa::load_codes(codes + stride + i));
}

#define HC_OF(function, rows, ...) function<rows __VA_OPT__(, ) __VA_ARGS__>
#define HC_FEW_ROWS(function, ...) \
  {HC_OF(function, 1, __VA_ARGS__), HC_OF(function, 2, __VA_ARGS__), HC_OF(function, 3, __VA_ARGS__)}
#define HC_ROWS(function, ...) \
  {HC_OF(function, 1, __VA_ARGS__), HC_OF(function, 2, __VA_ARGS__), HC_OF(function, 3, __VA_ARGS__), HC_OF(function, 4, __VA_ARGS__), \
   HC_OF(function, 5, __VA_ARGS__), HC_OF(function, 6, __VA_ARGS__), HC_OF(function, 7, __VA_ARGS__)}

constexpr Kernels make_kernels(const char *name) {
  Kernels k{};
  k.name = name;
  const TileFunction f32[] = HC_ROWS(tile_singles, float), f16[] = HC_ROWS(tile_singles, uint16_t), bf16[] = HC_ROWS(tile_bf16_f32),
                     dots[] = HC_ROWS(tile_bf16_bf16), f8[] = HC_ROWS(tile_f8), q8[] = HC_FEW_ROWS(tile_q8, false), u8_min[] = HC_FEW_ROWS(tile_q8, true),
                     q4[] = HC_FEW_ROWS(tile_q4, kLess8), q4_min[] = HC_FEW_ROWS(tile_q4, kWithMinima),
                     q4_wide[] = HC_FEW_ROWS(tile_q4, kWithWideMinima), q4_zero[] = HC_FEW_ROWS(tile_q4, kWithZeros),
                     q4_fp4[] = HC_FEW_ROWS(tile_q4, kFp4), q4_non_linear[] = HC_FEW_ROWS(tile_q4, kNonLinear),
                     q8_wide[] = HC_FEW_ROWS(tile_q8_wide, false), q8_wide_min[] = HC_FEW_ROWS(tile_q8_wide, true);
  const ScoresFunction s32[] = HC_ROWS(scores_f32), s16[] = HC_ROWS(scores_bf16);
  const MixtureFunction m32[] = HC_ROWS(mixture_f32), m16[] = HC_ROWS(mixture_bf16);
  for (int r = 0; r < kTileRows; ++r) {
    k.tiles[kWeightsF32][kInputsF32][r] = f32[r];
    k.tiles[kWeightsF16][kInputsF32][r] = f16[r];
    k.tiles[kWeightsF8][kInputsF32][r] = f8[r];
    k.tiles[kWeightsBf16][kInputsF32][r] = bf16[r];
    k.tiles[kWeightsBf16][kInputsBf16][r] = dots[r];
    k.scores_f32[r] = s32[r];
    k.scores_bf16[r] = s16[r];
    k.mixture_f32[r] = m32[r];
    k.mixture_bf16[r] = m16[r];
  }
  for (int r = 0; r < kQuantizedTileRows; ++r) {
    k.tiles[kWeightsQ8][kInputsQ8][r] = q8[r];
    k.tiles[kWeightsQ4][kInputsQ8][r] = q4[r];
    k.tiles[kWeightsQ4Min][kInputsQ8][r] = q4_min[r];
    k.tiles[kWeightsQ4Wide][kInputsQ8][r] = q4_wide[r];
    k.tiles[kWeightsQ8Wide][kInputsQ8][r] = q8_wide[r];
    k.tiles[kWeightsQ8WideMin][kInputsQ8][r] = q8_wide_min[r];
    k.tiles[kWeightsU8Min][kInputsQ8][r] = u8_min[r];
    k.tiles[kWeightsQ4Zero][kInputsQ8][r] = q4_zero[r];
    k.tiles[kWeightsQ4Fp4][kInputsQ8][r] = q4_fp4[r];
    k.tiles[kWeightsQ4NonLinear][kInputsQ8][r] = q4_non_linear[r];
  }
  constexpr bool is_one_pass = Isa::kRegisters >= 8 * kColumns;
  k.groups_at_once = is_one_pass ? 16 : 4;
  k.takes_one_pass = is_one_pass;
  k.softmax = softmax;
  k.rms_norm = rms_norm;
  k.layer_norm = layer_norm;
  k.rope = rope;
  k.gated = gated;
  k.gated_clipped = gated_clipped;
  k.activate = activate;
  k.add_scaled = add_scaled;
  k.to_bf16 = to_bf16;
  k.to_q8 = to_q8;
  k.to_codes = to_codes;
  k.widen_f32 = widen_f32;
  k.widen_f16 = widen_f16;
  k.widen_bf16 = widen_bf16;
  return k;
}

} // namespace
} // namespace hc
