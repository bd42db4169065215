#include "self_test.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "error.hpp"
#include "formats.hpp"
#include "linear.hpp"

namespace hc {
namespace {

constexpr int kInputsOfTest = 96; // three groups
constexpr int kInputsOfMatrices = 608; // 19 groups
constexpr int kHeadDims[] = {16, 48, 128};

// Numbers from -1 to 1, the same at every run.
class Numbers {
 public:
  float next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return float(int32_t(state_ >> 33) - (1 << 30)) / float(1 << 30);
  }
  std::vector<float> take(std::size_t count) {
    std::vector<float> values(count);
    for (float &value : values) value = next();
    return values;
  }

 private:
  uint64_t state_ = 1;
};

std::vector<std::byte> bytes_of(const std::vector<float> &values) {
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<uint16_t> bf16_of(const std::vector<float> &values) {
  std::vector<uint16_t> bits(values.size());
  plain_kernels()->to_bf16(values.data(), int(values.size()), bits.data());
  return bits;
}

void compare(const Kernels &kernels, const std::string &what, const std::vector<float> &found, const std::vector<float> &expected) {
  float largest = 0, difference = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    largest = std::max(largest, std::fabs(expected[i]));
    const float apart = std::fabs(found[i] - expected[i]);
    difference = std::max(difference, std::isnan(apart) ? HUGE_VALF : apart);
  }
  if (difference <= 2e-5f * std::max(largest, 1.0f)) return;
  throw Error(HC_UNSUPPORTED, "the kernel " + what + " of " + kernels.name + " computes wrongly on this processor");
}

struct Case {
  const char *name;
  int32_t format;
  int32_t storage;
  bool is_bf16;
};

constexpr Case kCases[] = {
    {"f32", HC_F32, HC_KEEP, false},    {"f16", HC_F16, HC_KEEP, false},     {"bf16", HC_BF16, HC_KEEP, false}, {"bf16 dots", HC_BF16, HC_KEEP, true},
    {"q8", HC_F32, HC_AS_Q8, false},    {"q4 with minima", HC_F32, HC_AS_Q4, false}, {"q4", HC_Q4_0, HC_KEEP, false},  {"q8 wide", HC_Q5_0, HC_KEEP, false},
    {"q8 wide with minima", HC_Q5_1, HC_KEEP, false}, {"u8 with minima", HC_U8_MIN, HC_KEEP, false}, {"q4 with zeros", HC_U4_ZERO, HC_KEEP, false},
    {"fp4", HC_MXFP4, HC_KEEP, false}, {"non-linear q4", HC_IQ4_NL, HC_KEEP, false}, {"f8", HC_F8_E4M3, HC_KEEP, false},
};

// A linear's stored weights: random numbers, or blocks whose scales are small numbers.
std::vector<std::byte> stored(Numbers &numbers, int32_t format, std::size_t count) {
  const BlockShape shape = block_shape(format);
  std::vector<std::byte> bytes(count / std::size_t(shape.values) * std::size_t(shape.bytes));
  if (format == HC_F32) return bytes_of(numbers.take(count));
  if (shape.values == 1) {
    const std::vector<float> values = numbers.take(count);
    const std::vector<uint16_t> bf16 = bf16_of(values);
    for (std::size_t i = 0; i < count; ++i) {
      const uint16_t bits = format == HC_BF16 ? bf16[i] : f16_bits(values[i]);
      std::memcpy(bytes.data() + 2 * i, &bits, 2);
    }
    return bytes;
  }
  for (std::byte &byte : bytes) byte = std::byte(int(numbers.next() * 128.0f) & 255);
  for (std::size_t at = 0; at < bytes.size(); at += std::size_t(shape.bytes)) {
    const float factor = numbers.next() / 16.0f;
    if (format == HC_F8_E4M3) std::memcpy(bytes.data() + at, &factor, sizeof factor);
    else if (format == HC_MXFP4) bytes[at] = std::byte(120 + int(numbers.next() * 4.0f));
    else
      for (int half = 0; half < 2; ++half) { // a scale, and a minimum where the format has one
        const uint16_t bits = f16_bits(half == 0 ? factor : numbers.next() / 16.0f);
        if (half == 0 || has_minima(format)) std::memcpy(bytes.data() + at + std::size_t(2 * half), &bits, 2);
      }
  }
  return bytes;
}

void test_tiles(const Kernels &kernels, Numbers &numbers) {
  InputRows rows(kTileRows, kInputsOfTest);
  rows.shape(kInputsOfTest);
  InputRows::Forms forms;
  std::fill(forms.is_wanted, forms.is_wanted + kNumInputs, true);
  for (int row = 0; row < kTileRows; ++row) rows.fill(*plain_kernels(), forms, row, numbers.take(kInputsOfTest).data());

  for (const Case &each : kCases) {
    Slabs slabs;
    const std::vector<std::byte> data = stored(numbers, each.format, std::size_t(kPanel) * kInputsOfTest);
    const Linear linear = pack(slabs, each.format, each.storage, kPanel, kInputsOfTest, data.data(), each.is_bf16);
    const int most_rows = linear.inputs == kInputsQ8 ? kQuantizedTileRows : kTileRows;
    for (int count = 1; count <= most_rows; ++count) {
      std::vector<float> found(std::size_t(count) * kPanel), expected = found;
      for (bool is_plain : {false, true}) {
        const Tile tile{linear.panels, linear.panels, 0, rows.input(linear.inputs), 0, 0, linear.num_groups, true, (is_plain ? expected : found).data()};
        (is_plain ? *plain_kernels() : kernels).tiles[linear.weights][linear.inputs][count - 1](tile);
      }
      compare(kernels, std::string(each.name) + " of " + std::to_string(count) + " rows", found, expected);
    }
  }
}

// Counts of rows that leave whole matrices, parts of one, and both.
void test_matrices(const Kernels &kernels, Numbers &numbers) {
  if (kernels.matrix_bf16 == nullptr) return;
  constexpr int most_rows = 71;
  InputRows rows(most_rows, kInputsOfMatrices);
  rows.shape(kInputsOfMatrices);
  InputRows::Forms forms;
  forms.is_wanted[kInputsBf16] = true;
  for (int row = 0; row < most_rows; ++row) rows.fill(*plain_kernels(), forms, row, numbers.take(kInputsOfMatrices).data());
  Slabs slabs;
  const std::vector<std::byte> data = stored(numbers, HC_BF16, std::size_t(kPanel) * kInputsOfMatrices);
  const Linear linear = pack(slabs, HC_BF16, HC_KEEP, kPanel, kInputsOfMatrices, data.data(), true);
  const Input input = rows.input(kInputsBf16);
  std::vector<float> expected(std::size_t(most_rows) * kPanel);
  for (int row = 0; row < most_rows; ++row)
    plain_kernels()->tiles[kWeightsBf16][kInputsBf16][0]({linear.panels, linear.panels, 0, input, std::size_t(row), 0, linear.num_groups, true, expected.data() + row * kPanel});
  for (int count : {1, 15, 16, 17, 32, 33, 48, 50, most_rows}) {
    std::vector<float> found(std::size_t(count) * kPanel);
    kernels.matrix_bf16({linear.panels, linear.panels, 0, input, 0, 0, linear.num_groups, true, found.data()}, count);
    compare(kernels, "bf16 matrices of " + std::to_string(count) + " rows", found, {expected.begin(), expected.begin() + count * kPanel});
  }
}

void test_attention(const Kernels &kernels, Numbers &numbers, int dim) {
  const std::vector<float> queries = numbers.take(std::size_t(kTileRows * dim)), keys = numbers.take(std::size_t(kChunk * dim)), weights = numbers.take(kTileRows * kChunk);
  const std::vector<float> keep = numbers.take(kTileRows), before = numbers.take(std::size_t(kTileRows * dim));
  const std::vector<uint16_t> bf16_queries = bf16_of(queries), bf16_keys = bf16_of(keys), bf16_weights = bf16_of(weights);
  for (bool is_bf16 : {false, true}) {
    const std::byte *data = is_bf16 ? reinterpret_cast<const std::byte *>(bf16_keys.data()) : reinterpret_cast<const std::byte *>(keys.data());
    const std::size_t piece_bytes = std::size_t(kPiece * dim) * (is_bf16 ? 2 : 4);
    const std::string format = is_bf16 ? " in bfloat16" : " in float32";
    for (int count = 1; count <= kTileRows; ++count) {
      std::vector<float> found(std::size_t(count) * kChunk), expected = found;
      std::vector<float> mixed(before.begin(), before.begin() + count * dim), expected_mixed = mixed;
      for (bool is_plain : {false, true}) {
        const Kernels &used = is_plain ? *plain_kernels() : kernels;
        Scores scores{is_bf16 ? static_cast<const void *>(bf16_queries.data()) : queries.data(), dim, {}, std::size_t(kPiece) * 4, (is_plain ? expected : found).data()};
        Mixture mixture{is_bf16 ? static_cast<const void *>(bf16_weights.data()) : weights.data(), {}, std::size_t(dim) * 4, dim, keep.data(),
                        (is_plain ? expected_mixed : mixed).data()};
        for (std::size_t piece = 0; piece < kChunk / kPiece; ++piece) scores.pieces[piece] = mixture.pieces[piece] = data + piece * piece_bytes;
        (is_bf16 ? used.scores_bf16 : used.scores_f32)[count - 1](scores);
        (is_bf16 ? used.mixture_bf16 : used.mixture_f32)[count - 1](mixture);
      }
      compare(kernels, "scores" + format + ", " + std::to_string(dim) + " dimensions", found, expected);
      compare(kernels, "mixture" + format + ", " + std::to_string(dim) + " dimensions", mixed, expected_mixed);
    }
  }
}

// A kernel that fills `count` numbers.
void test_numbers(const Kernels &kernels, const char *name, int count, const std::function<void(const Kernels &, float *)> &call) {
  std::vector<float> found(std::size_t(count), 0.0f), expected = found;
  call(kernels, found.data());
  call(*plain_kernels(), expected.data());
  compare(kernels, name, found, expected);
}

void test_the_rest(const Kernels &kernels, Numbers &numbers) {
  constexpr int odd = 75; // no whole number of vectors
  const std::vector<float> x = numbers.take(kInputsOfTest), weight = numbers.take(kInputsOfTest), bias = numbers.take(kInputsOfTest);
  test_numbers(kernels, "rms_norm", odd, [&](const Kernels &k, float *y) { k.rms_norm(x.data(), weight.data(), 1e-6f, odd, y); });
  test_numbers(kernels, "layer_norm", odd, [&](const Kernels &k, float *y) { k.layer_norm(x.data(), weight.data(), bias.data(), 1e-6f, odd, y); });
  for (bool is_interleaved : {false, true})
    test_numbers(kernels, "rope", kInputsOfTest, [&](const Kernels &k, float *y) {
      std::copy(x.begin(), x.end(), y);
      k.rope(y, weight.data(), bias.data(), 37, is_interleaved);
    });
  for (int activation : {HC_SILU, HC_GELU_TANH}) {
    test_numbers(kernels, "gated", kInputsOfTest, [&](const Kernels &k, float *y) { k.gated(x.data(), weight.data(), kInputsOfTest, activation, y); });
    test_numbers(kernels, "activate", kInputsOfTest, [&](const Kernels &k, float *y) {
      for (int i = 0; i < kInputsOfTest; ++i) y[i] = 10.0f * x[std::size_t(i)];
      k.activate(y, kInputsOfTest, activation);
    });
  }
  test_numbers(kernels, "gated_clipped", kInputsOfTest, [&](const Kernels &k, float *y) {
    for (int i = 0; i < kInputsOfTest; ++i) y[i] = 10.0f * x[std::size_t(i)];
    k.gated_clipped(y, bias.data(), kInputsOfTest, 1.702f, 0.75f, y);
  });
  test_numbers(kernels, "add_scaled", odd, [&](const Kernels &k, float *y) { k.add_scaled(y, x.data(), 0.5f, odd); });
  test_numbers(kernels, "softmax", kChunk + 3, [&](const Kernels &k, float *y) {
    float largest = 0.25f, total = 1.5f, keep = 0;
    std::copy(x.begin(), x.begin() + kChunk, y);
    k.softmax(y, 3, 50, 3.0f, 2.0f, &largest, &total, &keep);
    y[kChunk] = largest;
    y[kChunk + 1] = total;
    y[kChunk + 2] = keep;
  });
  test_numbers(kernels, "to_q8", kInputsOfTest + 9, [&](const Kernels &k, float *y) {
    int8_t values[kInputsOfTest];
    int32_t sums[6];
    k.to_q8(x.data(), 3, values, y + kInputsOfTest, sums);
    for (int i = 0; i < kInputsOfTest; ++i) y[i] = float(values[i]);
    for (int i = 0; i < 6; ++i) y[kInputsOfTest + 3 + i] = float(sums[i]);
  });
  test_numbers(kernels, "to_codes", odd + 1, [&](const Kernels &k, float *y) {
    int8_t codes[odd];
    y[odd] = 1000.0f * k.to_codes(x.data(), odd, codes);
    for (int i = 0; i < odd; ++i) y[i] = float(codes[i]);
  });
  test_numbers(kernels, "widen_f16", kInputsOfTest, [&](const Kernels &k, float *y) {
    uint16_t halves[kInputsOfTest];
    for (int i = 0; i < kInputsOfTest; ++i) halves[i] = f16_bits(x[std::size_t(i)]);
    k.widen_f16(halves, 2, kInputsOfTest / 2, kInputsOfTest / 2, y);
  });
  test_numbers(kernels, "widen", 2 * kInputsOfTest, [&](const Kernels &k, float *y) {
    int8_t codes[kInputsOfTest];
    uint16_t pairs[kInputsOfTest];
    plain_kernels()->to_codes(x.data(), kInputsOfTest, codes);
    k.widen_f32(codes, 2, kInputsOfTest / 2, kInputsOfTest / 2, y);
    k.widen_bf16(codes, 2, kInputsOfTest / 2, kInputsOfTest / 2, pairs);
    for (int i = 0; i < kInputsOfTest; ++i) y[kInputsOfTest + i] = float(pairs[i]);
  });
  test_numbers(kernels, "to_bf16", odd, [&](const Kernels &k, float *y) {
    uint16_t bits[odd];
    k.to_bf16(x.data(), odd, bits);
    for (int i = 0; i < odd; ++i) y[i] = float(bits[i]);
  });
}

} // namespace

void self_test(const Kernels &kernels) {
  Numbers numbers;
  test_tiles(kernels, numbers);
  test_matrices(kernels, numbers);
  for (int dim : kHeadDims) test_attention(kernels, numbers, dim);
  test_the_rest(kernels, numbers);
}

} // namespace hc
