#include "linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.hpp"
#include "formats.hpp"

namespace hc {
namespace {

constexpr int kGroupsAtOnce = 16; // of the input: a part of a panel that stays in a core's cache while all rows pass
constexpr std::size_t kAheadBytes = 4096; // how far ahead a panel is fetched while one tile of rows passes
constexpr std::size_t kScaleBytes = kPanel * sizeof(uint16_t);

void set_u16(std::byte *p, uint16_t value) { std::memcpy(p, &value, sizeof value); }

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
  for (int k = 0; k < count; ++k) std::memcpy(group + std::size_t((k / 2 * kPanel + column) * 2 + k % 2) * 2, source + k * 2, 2);
}

void put_bytes(const int8_t *values, std::byte *weights, int column) {
  for (int k = 0; k < kGroup; ++k) weights[(k / 4 * kPanel + column) * 4 + k % 4] = std::byte(int(values[k]) + 128);
}

void put_nibbles(const uint8_t *values, std::byte *weights, int column) {
  constexpr int half = kGroup / 2;
  for (int k = 0; k < half; ++k) weights[(k / 4 * kPanel + column) * 4 + k % 4] = std::byte(values[k] | values[half + k] << 4);
}

void put_q8_0(const std::byte *source, int, std::byte *group, int column) {
  std::memcpy(group + column * 2, source, 2);
  put_bytes(reinterpret_cast<const int8_t *>(source + 2), group + kScaleBytes, column);
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

void round_to_q8(const float *values, std::byte *group, int column) {
  float largest = 0;
  for (int k = 0; k < kGroup; ++k) largest = std::max(largest, std::fabs(values[k]));
  const uint16_t scale = f16_bits(largest / 127.0f);
  const float step = f16_value(scale);
  int8_t rounded[kGroup];
  for (int k = 0; k < kGroup; ++k)
    rounded[k] = step > 0 ? int8_t(std::clamp(std::nearbyint(values[k] / step), -127.0f, 127.0f)) : int8_t(0);
  set_u16(group + column * 2, scale);
  put_bytes(rounded, group + kScaleBytes, column);
}

// With a minimum: 16 even steps from the least value to the largest.
void round_to_q4(const float *values, std::byte *group, int column) {
  const auto [least, largest] = std::minmax_element(values, values + kGroup);
  const uint16_t scale = f16_bits((*largest - *least) / 15.0f), minimum = f16_bits(*least);
  const float step = f16_value(scale), from = f16_value(minimum);
  uint8_t rounded[kGroup];
  for (int k = 0; k < kGroup; ++k)
    rounded[k] = step > 0 ? uint8_t(std::clamp(std::nearbyint((values[k] - from) / step), 0.0f, 15.0f)) : uint8_t(0);
  set_u16(group + column * 2, scale);
  set_u16(group + kScaleBytes + column * 2, minimum);
  put_nibbles(rounded, group + 2 * kScaleBytes, column);
}

std::size_t bytes_of_group(Weights weights) {
  switch (weights) {
    case kWeightsF32: return std::size_t(kGroup) * kPanel * 4;
    case kWeightsBf16:
    case kWeightsF16: return std::size_t(kGroup) * kPanel * 2;
    case kWeightsQ8: return kScaleBytes + std::size_t(kGroup) * kPanel;
    case kWeightsQ4: return kScaleBytes + std::size_t(kGroup) * kPanel / 2;
    default: return 2 * kScaleBytes + std::size_t(kGroup) * kPanel / 2;
  }
}

// How a format is kept: as it lies, or as its values rounded.
struct Plan {
  Weights weights;
  PutGroup put; // null: from float32 values
};

Plan plan_for(int32_t format, int32_t storage) {
  const bool has_8_bits = format == HC_Q8_0, has_4_bits = format == HC_Q4_0 || format == HC_Q4_1;
  if (storage == HC_AS_Q4 && !has_4_bits) return {kWeightsQ4Min, nullptr};
  if (storage == HC_AS_Q8 && !has_4_bits && !has_8_bits) return {kWeightsQ8, nullptr};
  switch (format) {
    case HC_F32: return {kWeightsF32, put_f32};
    case HC_F16: return {kWeightsF16, put_f16};
    case HC_BF16: return {kWeightsBf16, put_bf16};
    case HC_Q8_0: return {kWeightsQ8, put_q8_0};
    case HC_Q4_0: return {kWeightsQ4, put_q4_0};
    case HC_Q4_1: return {kWeightsQ4Min, put_q4_1};
    default: return {kWeightsF32, nullptr};
  }
}

} // namespace

Linear pack(Slabs &slabs, int32_t format, int32_t storage, int num_outputs, int num_inputs, const std::byte *data, bool keeps_bf16) {
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
  std::byte *panels = slabs.take(linear.num_bytes);
  linear.panels = panels;

  const std::size_t bytes_per_row = row_bytes(format, num_inputs);
  const BlockShape block = block_shape(format);
  const int put_bytes_per_group = plan.put == nullptr ? 0 : kGroup / block.values * block.bytes;
  Pool::instance().run(linear.num_panels, [&](int p, int) {
    std::vector<float> values(plan.put == nullptr ? std::size_t(linear.num_groups) * kGroup : 0);
    std::byte *panel = panels + std::size_t(p) * std::size_t(linear.num_groups) * linear.group_bytes;
    std::memset(panel, 0, std::size_t(linear.num_groups) * linear.group_bytes);
    for (int column = 0; column < std::min(kPanel, num_outputs - p * kPanel); ++column) {
      const std::byte *row = data + std::size_t(p * kPanel + column) * bytes_per_row;
      if (plan.put == nullptr) dequantize(format, num_inputs, row, values.data());
      for (int g = 0; g < linear.num_groups; ++g) {
        std::byte *group = panel + std::size_t(g) * linear.group_bytes;
        const int count = std::min(kGroup, num_inputs - g * kGroup);
        if (plan.put != nullptr) plan.put(row + std::size_t(g) * std::size_t(put_bytes_per_group), count, group, column);
        else if (plan.weights == kWeightsQ8) round_to_q8(values.data() + g * kGroup, group, column);
        else if (plan.weights == kWeightsQ4Min) round_to_q4(values.data() + g * kGroup, group, column);
        else put_f32(reinterpret_cast<const std::byte *>(values.data() + g * kGroup), count, group, column);
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
  sums_ = Array<int32_t>(rows * stride / kGroup);
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
    kernels.to_q8(values, int(stride_ / kGroup), q8_.data() + at, scales_.data() + at / kGroup, sums_.data() + at / kGroup);
}

Input InputRows::input(Inputs kind) const {
  const void *values[kNumInputs] = {f32_.data(), bf16_.data(), q8_.data()};
  return {kind, values[kind], scales_.data(), sums_.data(), stride_};
}

// ---- running ----------------------------------------------------------------------------------------------------

LinearScratch::LinearScratch(int num_threads) : sums_(std::size_t(num_threads) * 2 * kRowsAtOnce * kPanel) {}

namespace {

// Of 16 pairs of inputs, those of tile `tile`.
uint32_t fetches(int tile, int num_tiles) {
  uint32_t bits = 0;
  for (int pair = tile; pair < kGroup / 2; pair += num_tiles) bits |= 1u << pair;
  return bits;
}

// All rows of a chunk with one panel. Tiles of about equal height share the fetching of what comes next.
void multiply(const Kernels &kernels, const Linear &linear, int panel, const Input &input, int first_row, int num_rows, float *sums) {
  const TileFunction *tiles = kernels.tiles[linear.weights][linear.inputs];
  const int num_tiles = (num_rows + kTileRows - 1) / kTileRows;
  const int groups_at_once = num_tiles == 1 ? linear.num_groups : kGroupsAtOnce;
  for (int group = 0; group < linear.num_groups; group += groups_at_once) {
    const std::byte *part = linear.panel(panel) + std::size_t(group) * linear.group_bytes;
    const int num_groups = std::min(groups_at_once, linear.num_groups - group);
    const std::byte *ahead = part + (num_tiles == 1 ? kAheadBytes : std::size_t(num_groups) * linear.group_bytes);
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

} // namespace

void run(const Kernels &kernels, Pool &pool, LinearScratch &scratch, const Use *uses, int num_uses, const InputRows &rows, int num_rows) {
  const int num_chunks = (num_rows + LinearScratch::kRowsAtOnce - 1) / LinearScratch::kRowsAtOnce;
  int num_panels = 0;
  for (int i = 0; i < num_uses; ++i) num_panels += uses[i].linear->num_panels;
  pool.run(num_panels * num_chunks, [&](int task, int thread) {
    int panel = task / num_chunks;
    const Use *use = uses;
    for (; panel >= use->linear->num_panels; ++use) panel -= use->linear->num_panels;
    const int first_row = task % num_chunks * LinearScratch::kRowsAtOnce;
    const int count = std::min(LinearScratch::kRowsAtOnce, num_rows - first_row);
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
