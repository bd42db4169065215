#include "linear.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "error.hpp"
#include "formats.hpp"

namespace hc {
namespace {

constexpr std::size_t kAheadBytes = 8192; // how far ahead a panel is fetched while one tile of rows passes
constexpr std::size_t kScaleBytes = kPanel * sizeof(uint16_t);
constexpr std::size_t kWideBytes = kPanel * sizeof(float);

void set_u16(std::byte *p, uint16_t value) { std::memcpy(p, &value, sizeof value); }
void set_f32(std::byte *p, float value) { std::memcpy(p, &value, sizeof value); }

// ---- packing ----------------------------------------------------------------------------------------------------

// One group of one output, written into its column of the panel's group.
using PutGroup = void (*)(const std::byte *source, int count, std::byte *group, int column);

void put_f32(const std::byte *source, int count, std::byte *group, int column) {
  for (int k = 0; k < count; ++k) std::memcpy(group + std::size_t(k * kPanel + column) * 4, source + k * 4, 4);
}

void put_f16(const std::byte *source, int count, std::byte *group, int column) {
  for (int k = 0; k < count; ++k) std::memcpy(group + std::size_t(k * kPanel + column) * 2, source + k * 2, 2);
}

void put_bf16(const std::byte *source, int count, std::byte *group, int column) {
  for (int k = 0; k < count; k += 2) std::memcpy(group + std::size_t(k / 2 * kPanel + column) * 4, source + k * 2, k + 1 < count ? 4 : 2);
}

// `flips` turns bits of four bytes at once.
void put_bytes(const void *values, std::byte *weights, int column, uint32_t flips) {
  for (int k = 0; k < kGroup; k += 4) {
    uint32_t four;
    std::memcpy(&four, static_cast<const std::byte *>(values) + k, sizeof four);
    four ^= flips;
    std::memcpy(weights + std::size_t(k / 4 * kPanel + column) * 4, &four, sizeof four);
  }
}

constexpr uint32_t kSignBits = 0x80808080; // turning them adds 128 to signed bytes

void put_nibbles(const uint8_t *values, std::byte *weights, int column) {
  constexpr int half = kGroup / 2;
  uint8_t pairs[half];
  for (int k = 0; k < half; ++k) pairs[k] = uint8_t(values[k] | values[half + k] << 4);
  for (int k = 0; k < half; k += 4) std::memcpy(weights + std::size_t(k / 4 * kPanel + column) * 4, pairs + k, 4);
}

void put_q8_0(const std::byte *source, int, std::byte *group, int column) {
  std::memcpy(group + column * 2, source, 2);
  put_bytes(source + 2, group + kScaleBytes, column, kSignBits);
}

void put_u8_min(const std::byte *source, int, std::byte *group, int column) {
  std::memcpy(group + column * 2, source, 2);
  std::memcpy(group + kScaleBytes + column * 2, source + 2, 2);
  put_bytes(source + 4, group + 2 * kScaleBytes, column, 0);
}

void put_f8(const std::byte *source, int, std::byte *group, int column) {
  std::memcpy(group + column * 4, source, 4);
  for (int k = 0; k < kGroup; ++k) group[kWideBytes + std::size_t(k * kPanel + column)] = source[4 + k];
}

void unpack_nibbles(const std::byte *source, uint8_t *values) {
  for (int i = 0; i < kGroup / 2; ++i) {
    values[i] = uint8_t(source[i]) & 15;
    values[kGroup / 2 + i] = uint8_t(source[i]) >> 4;
  }
}

void put_q4_0(const std::byte *source, int, std::byte *group, int column) {
  uint8_t values[kGroup];
  unpack_nibbles(source + 2, values);
  std::memcpy(group + column * 2, source, 2);
  put_nibbles(values, group + kScaleBytes, column);
}

void put_q4_1(const std::byte *source, int, std::byte *group, int column) {
  uint8_t values[kGroup];
  unpack_nibbles(source + 4, values);
  std::memcpy(group + column * 2, source, 2);
  std::memcpy(group + kScaleBytes + column * 2, source + 2, 2);
  put_nibbles(values, group + 2 * kScaleBytes, column);
}

// Half of 2^(exponent - 127) as bfloat16.
void put_mxfp4(const std::byte *source, int, std::byte *group, int column) {
  uint8_t values[kGroup];
  unpack_nibbles(source + 1, values);
  const uint32_t exponent = uint8_t(source[0]);
  set_u16(group + column * 2, uint16_t(exponent < 2 ? 0x20u << exponent : (exponent - 1) << 7));
  put_nibbles(values, group + kScaleBytes, column);
}

// Rounding runs over whole checkpoints at their loading, so it is written for vectors: every processor has the
// instructions of these lines, where `nearbyint` is a call and maxima of floats are taken one by one.

// The nearest integer, ties to even, of a number below 2^22.
float nearest(float x) {
  constexpr float kShift = 12582912.0f; // 1.5 * 2^23: what stands behind it has no fraction
  return (x + kShift) - kShift;
}

// Integers in the order of the floats whose bits they come from, and back.
int32_t ordered(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
float from_ordered(int32_t bits) { return std::bit_cast<float>(bits ^ (bits >> 31 & 0x7fffffff)); }

void round_to_q8(const float *values, std::byte *group, int column) {
  int32_t largest = 0;
  for (int k = 0; k < kGroup; ++k) largest = std::max(largest, std::bit_cast<int32_t>(values[k]) & 0x7fffffff);
  const uint16_t scale = f16_bits(std::bit_cast<float>(largest) / 127.0f);
  const float step = f16_value(scale), divisor = step > 0 ? step : HUGE_VALF;
  int8_t rounded[kGroup];
  for (int k = 0; k < kGroup; ++k) rounded[k] = int8_t(int32_t(nearest(std::min(std::max(values[k] / divisor, -127.0f), 127.0f))));
  set_u16(group + column * 2, scale);
  put_bytes(rounded, group + kScaleBytes, column, kSignBits);
}

// With a minimum: 16 even steps from the least value to the largest.
void round_to_q4(const float *values, std::byte *group, int column) {
  int32_t least = INT32_MAX, largest = INT32_MIN;
  for (int k = 0; k < kGroup; ++k) {
    least = std::min(least, ordered(values[k]));
    largest = std::max(largest, ordered(values[k]));
  }
  const uint16_t scale = f16_bits((from_ordered(largest) - from_ordered(least)) / 15.0f), minimum = f16_bits(from_ordered(least));
  const float step = f16_value(scale), from = f16_value(minimum), divisor = step > 0 ? step : HUGE_VALF;
  uint8_t rounded[kGroup];
  for (int k = 0; k < kGroup; ++k) rounded[k] = uint8_t(int32_t(nearest(std::min(std::max((values[k] - from) / divisor, 0.0f), 15.0f))));
  set_u16(group + column * 2, scale);
  set_u16(group + kScaleBytes + column * 2, minimum);
  put_nibbles(rounded, group + 2 * kScaleBytes, column);
}

void put_q4_wide(const Integers &group_values, std::byte *group, int column) {
  set_f32(group + column * 4, group_values.steps[0]);
  set_f32(group + kWideBytes + column * 4, group_values.minima[0]);
  uint8_t values[kGroup];
  for (int k = 0; k < kGroup; ++k) values[k] = uint8_t(group_values.values[k]);
  put_nibbles(values, group + 2 * kWideBytes, column);
}

// Numbers are less `middle`, 128 for unsigned ones.
void put_q8_wide(const Integers &group_values, bool has_min, int middle, std::byte *group, int column) {
  for (int half = 0; half < 2; ++half) {
    const float step = group_values.steps[half];
    set_f32(group + std::size_t(half) * kWideBytes + column * 4, step);
    if (has_min) set_f32(group + std::size_t(2 + half) * kWideBytes + column * 4, group_values.minima[half] + float(middle) * step);
  }
  int8_t values[kGroup];
  for (int k = 0; k < kGroup; ++k) values[k] = int8_t(group_values.values[k] - middle);
  put_bytes(values, group + (has_min ? 4 : 2) * kWideBytes, column, kSignBits);
}

std::size_t bytes_of_group(Weights weights) {
  switch (weights) {
    case kWeightsF32: return std::size_t(kGroup) * kPanel * 4;
    case kWeightsBf16:
    case kWeightsF16: return std::size_t(kGroup) * kPanel * 2;
    case kWeightsQ8: return kScaleBytes + std::size_t(kGroup) * kPanel;
    case kWeightsF8: return kWideBytes + std::size_t(kGroup) * kPanel;
    case kWeightsU8Min: return 2 * kScaleBytes + std::size_t(kGroup) * kPanel;
    case kWeightsQ4:
    case kWeightsQ4Fp4:
    case kWeightsQ4NonLinear: return kScaleBytes + std::size_t(kGroup) * kPanel / 2;
    case kWeightsQ4Zero:
    case kWeightsQ4Min: return 2 * kScaleBytes + std::size_t(kGroup) * kPanel / 2;
    case kWeightsQ4Wide: return 2 * kWideBytes + std::size_t(kGroup) * kPanel / 2;
    case kWeightsQ8Wide: return 2 * kWideBytes + std::size_t(kGroup) * kPanel;
    default: return 4 * kWideBytes + std::size_t(kGroup) * kPanel;
  }
}

// How a format is kept: as it lies, as its integers, or as its values rounded.
struct Plan {
  enum From { kAsItLies, kIntegers, kValues };
  Weights weights;
  From from;
  PutGroup put = nullptr; // kAsItLies
};

Plan plan_for(int32_t format, int32_t storage) {
  const BlockShape shape = block_shape(format);
  const float bits = 8.0f * float(shape.bytes) / float(shape.values);
  if (storage == HC_AS_Q4 && bits > 6) return {kWeightsQ4Min, Plan::kValues};
  if (storage == HC_AS_Q8 && bits > 9) return {kWeightsQ8, Plan::kValues};
  switch (format) {
    case HC_F32: return {kWeightsF32, Plan::kAsItLies, put_f32};
    case HC_F16: return {kWeightsF16, Plan::kAsItLies, put_f16};
    case HC_BF16: return {kWeightsBf16, Plan::kAsItLies, put_bf16};
    case HC_Q8_0: return {kWeightsQ8, Plan::kAsItLies, put_q8_0};
    case HC_Q4_0: return {kWeightsQ4, Plan::kAsItLies, put_q4_0};
    case HC_Q4_1: return {kWeightsQ4Min, Plan::kAsItLies, put_q4_1};
    case HC_IQ4_NL: return {kWeightsQ4NonLinear, Plan::kAsItLies, put_q4_0};
    case HC_MXFP4: return {kWeightsQ4Fp4, Plan::kAsItLies, put_mxfp4};
    case HC_U4_ZERO: return {kWeightsQ4Zero, Plan::kAsItLies, put_q4_1};
    case HC_U8_MIN: return {kWeightsU8Min, Plan::kAsItLies, put_u8_min};
    case HC_F8_E4M3: return {kWeightsF8, Plan::kAsItLies, put_f8};
    case HC_U4_WIDE:
    case HC_Q4_K: return {kWeightsQ4Wide, Plan::kIntegers};
    default: return {has_minima(format) ? kWeightsQ8WideMin : kWeightsQ8Wide, Plan::kIntegers};
  }
}

} // namespace

Linear shape_of(int32_t format, int32_t storage, int num_outputs, int num_inputs, bool keeps_bf16) {
  const Plan plan = plan_for(format, storage);
  Linear linear;
  linear.weights = plan.weights;
  linear.inputs = plan.weights >= kWeightsQ8 ? kInputsQ8 : plan.weights == kWeightsBf16 && keeps_bf16 ? kInputsBf16 : kInputsF32;
  linear.num_outputs = num_outputs;
  linear.num_inputs = num_inputs;
  linear.num_panels = (num_outputs + kPanel - 1) / kPanel;
  linear.num_groups = (num_inputs + kGroup - 1) / kGroup;
  linear.group_bytes = bytes_of_group(plan.weights);
  linear.num_bytes = std::size_t(linear.num_panels) * std::size_t(linear.num_groups) * linear.group_bytes;
  return linear;
}

Linear copy_packed(Slabs &slabs, int32_t format, int32_t storage, int num_outputs, int num_inputs, const std::byte *data, bool keeps_bf16) {
  Linear linear = shape_of(format, storage, num_outputs, num_inputs, keeps_bf16);
  std::byte *panels = slabs.take(linear.num_bytes);
  linear.panels = panels;
  const std::size_t panel_bytes = std::size_t(linear.num_groups) * linear.group_bytes;
  Pool::instance().run(linear.num_panels, [&](int p, int) { std::memcpy(panels + std::size_t(p) * panel_bytes, data + std::size_t(p) * panel_bytes, panel_bytes); });
  return linear;
}

Linear pack(Slabs &slabs, int32_t format, int32_t storage, int num_outputs, int num_inputs, const std::byte *data, bool keeps_bf16) {
  const Plan plan = plan_for(format, storage);
  Linear linear = shape_of(format, storage, num_outputs, num_inputs, keeps_bf16);
  std::byte *panels = slabs.take(linear.num_bytes);
  linear.panels = panels;

  const std::size_t bytes_per_row = row_bytes(format, num_inputs);
  const BlockShape block = block_shape(format);
  const std::size_t bytes_per_group = plan.from == Plan::kAsItLies ? std::size_t(kGroup / block.values * block.bytes) : 0;
  Pool::instance().run(linear.num_panels, [&](int p, int) {
    std::byte *panel = panels + std::size_t(p) * std::size_t(linear.num_groups) * linear.group_bytes;
    std::memset(panel, 0, std::size_t(linear.num_groups) * linear.group_bytes);
    const int num_columns = std::min(kPanel, num_outputs - p * kPanel);
    const std::byte *rows = data + std::size_t(p) * kPanel * bytes_per_row;
    if (plan.from == Plan::kValues) {
      std::vector<float> values(std::size_t(linear.num_groups) * kGroup);
      for (int column = 0; column < num_columns; ++column) {
        dequantize(format, num_inputs, rows + std::size_t(column) * bytes_per_row, values.data());
        for (int g = 0; g < linear.num_groups; ++g) {
          std::byte *group = panel + std::size_t(g) * linear.group_bytes;
          if (plan.weights == kWeightsQ8) round_to_q8(values.data() + g * kGroup, group, column);
          else round_to_q4(values.data() + g * kGroup, group, column);
        }
      }
      return;
    }

    // Group by group, because a group stays in the first cache while its columns are written.
    for (int g = 0; g < linear.num_groups; ++g) {
      std::byte *group = panel + std::size_t(g) * linear.group_bytes;
      for (int column = 0; column < num_columns; ++column) {
        const std::byte *row = rows + std::size_t(column) * bytes_per_row;
        if (plan.from == Plan::kAsItLies) plan.put(row + std::size_t(g) * bytes_per_group, std::min(kGroup, num_inputs - g * kGroup), group, column);
        else if (plan.weights == kWeightsQ4Wide) put_q4_wide(integers_at(format, row, int64_t(g) * kGroup), group, column);
        else put_q8_wide(integers_at(format, row, int64_t(g) * kGroup), plan.weights == kWeightsQ8WideMin, format == HC_U8_WIDE ? 128 : 0, group, column);
      }
    }
  });
  return linear;
}

// ---- inputs -----------------------------------------------------------------------------------------------------

InputRows::InputRows(int max_rows, int max_inputs) {
  const std::size_t stride = std::size_t(max_inputs + kGroup - 1) / kGroup * kGroup, rows = std::size_t(max_rows);
  f32_ = Array<float>(rows * stride);
  bf16_ = Array<uint16_t>(rows * stride);
  q8_ = Array<int8_t>(rows * stride);
  scales_ = Array<float>(rows * stride / kGroup);
  sums_ = Array<int32_t>(2 * rows * stride / kGroup);
}

void InputRows::shape(int count) {
  count_ = count;
  stride_ = std::size_t(count + kGroup - 1) / kGroup * kGroup;
}

void InputRows::fill(const Kernels &kernels, const Forms &forms, int row, const float *values) {
  const std::size_t at = std::size_t(row) * stride_, used = std::size_t(count_);
  float *f32 = f32_.data() + at;
  const bool is_padded = stride_ != used;
  if (forms.is_wanted[kInputsF32] || is_padded) {
    if (values != f32) std::memcpy(f32, values, used * sizeof(float));
    std::fill(f32 + used, f32 + stride_, 0.0f);
    values = f32;
  }
  if (forms.is_wanted[kInputsBf16]) kernels.to_bf16(values, int(stride_), bf16_.data() + at);
  if (forms.is_wanted[kInputsQ8])
    kernels.to_q8(values, int(stride_ / kGroup), q8_.data() + at, scales_.data() + at / kGroup, sums_.data() + 2 * (at / kGroup));
}

Input InputRows::input(Inputs kind) const {
  const void *values[kNumInputs] = {f32_.data(), bf16_.data(), q8_.data()};
  return {kind, values[kind], scales_.data(), sums_.data(), stride_};
}

// ---- running ----------------------------------------------------------------------------------------------------

LinearScratch::LinearScratch(int num_threads) : sums_(std::size_t(num_threads) * 2 * kRowsAtOnce * kPanel) {}

namespace {

// Of the rows of a panel's group, at most 32, those of tile `tile`.
uint32_t fetches(int tile, int num_tiles) {
  uint32_t bits = 0;
  for (int row = tile; row < kGroup; row += num_tiles) bits |= 1u << row;
  return bits;
}

// All rows of a chunk with one panel. Tiles of about equal height share the fetching of what comes next.
void multiply(const Kernels &kernels, const Linear &linear, int panel, const Input &input, int first_row, int num_rows, float *sums) {
  if (kernels.matrix_bf16 != nullptr && linear.inputs == kInputsBf16) {
    const std::byte *begin = linear.panel(panel);
    kernels.matrix_bf16({begin, begin + kAheadBytes, 0, input, std::size_t(first_row), 0, linear.num_groups, true, sums}, num_rows);
    return;
  }

  const TileFunction *tiles = kernels.tiles[linear.weights][linear.inputs];
  const int tile_rows = linear.inputs == kInputsQ8 ? kQuantizedTileRows : kTileRows;
  const int num_tiles = (num_rows + tile_rows - 1) / tile_rows;
  const bool is_streamed = num_tiles == 1 && kernels.takes_one_pass;
  const int groups_at_once = is_streamed ? linear.num_groups : kernels.groups_at_once;
  for (int group = 0; group < linear.num_groups; group += groups_at_once) {
    const std::byte *part = linear.panel(panel) + std::size_t(group) * linear.group_bytes;
    const int num_groups = std::min(groups_at_once, linear.num_groups - group);
    const std::byte *ahead = part + (is_streamed ? kAheadBytes : std::size_t(num_groups) * linear.group_bytes);
    for (int tile = 0; tile < num_tiles; ++tile) {
      const int row = tile * num_rows / num_tiles, rows = (tile + 1) * num_rows / num_tiles - row;
      tiles[rows - 1]({part, ahead, fetches(tile, num_tiles), input, std::size_t(first_row + row), group, num_groups, group == 0, sums + row * kPanel});
    }
  }
}

void add_bias(const Linear &linear, int panel, int num_rows, float *sums) {
  if (linear.bias == nullptr) return;
  const float *bias = linear.bias + panel * kPanel;
  for (int row = 0; row < num_rows; ++row)
    for (int i = 0; i < kPanel; ++i) sums[row * kPanel + i] += bias[i];
}

void finish(const Kernels &kernels, const Use &use, int panel, int first_row, int num_rows, float *sums, float *gates) {
  add_bias(*use.linear, panel, num_rows, sums);
  if (use.gate != nullptr) add_bias(*use.gate, panel, num_rows, gates);
  const int count = std::min(kPanel, use.linear->num_outputs - panel * kPanel);
  for (int row = 0; row < num_rows; ++row) {
    float *sum = sums + row * kPanel;
    float *output = use.output + std::size_t(first_row + row) * use.stride + std::size_t(panel) * kPanel;
    switch (use.mode) {
      case Use::kAdd: kernels.add_scaled(output, sum, use.scale, count); continue;
      case Use::kGate:
        if (use.activation == HC_GELU) {
          gelu_exact(gates + row * kPanel, kPanel);
          for (int i = 0; i < kPanel; ++i) sum[i] *= gates[row * kPanel + i];
        } else if (use.activation == HC_CLIPPED) {
          kernels.gated_clipped(gates + row * kPanel, sum, kPanel, use.alpha, use.limit, sum);
        } else {
          kernels.gated(gates + row * kPanel, sum, kPanel, use.activation, sum);
        }
        break;
      case Use::kActivate:
        if (use.activation == HC_GELU) gelu_exact(sum, kPanel);
        else kernels.activate(sum, kPanel, use.activation);
        break;
      case Use::kStore:
        if (use.scale != 1.0f)
          for (int i = 0; i < kPanel; ++i) sum[i] *= use.scale;
        if (use.softcap > 0)
          for (int i = 0; i < count; ++i) sum[i] = use.softcap * std::tanh(sum[i] / use.softcap);
        break;
    }
    std::memcpy(output, sum, std::size_t(count) * sizeof(float));
  }
}

int num_chunks(const Use &use) { return (use.num_rows + LinearScratch::kRowsAtOnce - 1) / LinearScratch::kRowsAtOnce; }

struct Task {
  const Use *use;
  int panel, chunk;
};

// All uses' panels of one lane come before those of the next, because in lanes they were packed.
Task find_task(const Pool &pool, const Use *uses, int num_uses, int index) {
  for (int lane = 0;; ++lane)
    for (const Use *use = uses; use != uses + num_uses; ++use) {
      const int first = pool.first_of_lane(use->linear->num_panels, lane), end = pool.first_of_lane(use->linear->num_panels, lane + 1);
      const int chunks = num_chunks(*use), num_tasks = (end - first) * chunks;
      if (index < num_tasks) return {use, first + index / chunks, index % chunks};
      index -= num_tasks;
    }
}

} // namespace

void run(const Kernels &kernels, Pool &pool, LinearScratch &scratch, const Use *uses, int num_uses, const InputRows &rows) {
  constexpr int most_rows = LinearScratch::kRowsAtOnce;
  int num_tasks = 0;
  for (int i = 0; i < num_uses; ++i) num_tasks += uses[i].linear->num_panels * num_chunks(uses[i]);
  pool.run(num_tasks, [&](int index, int thread) {
    const auto [use, panel, chunk] = find_task(pool, uses, num_uses, index);
    const int begin = chunk * most_rows;
    const int first_row = use->first_row + begin, count = std::min(most_rows, use->num_rows - begin);
    float *sums = scratch.sums(thread, 0), *gates = scratch.sums(thread, 1);
    multiply(kernels, *use->linear, panel, rows.input(use->linear->inputs), first_row, count, sums);
    if (use->gate != nullptr) multiply(kernels, *use->gate, panel, rows.input(use->gate->inputs), first_row, count, gates);
    finish(kernels, *use, panel, first_row, count, sums, gates);
  });
}

void gelu_exact(float *x, int count) {
  for (int i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678118654752f));
}

} // namespace hc
