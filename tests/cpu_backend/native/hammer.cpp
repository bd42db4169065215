// Makes tiny stages of every kind and lets them step, with every set of kernels that runs here. It is meant to be built
// with sanitizers; by itself it only looks for logits that are no numbers, and for a planted mistake (first argument).

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <sstream>
#include <string>
#include <vector>

#include "histrio_cpu.h"

namespace {

constexpr int kHidden = 256, kVocab = 130, kLayers = 2, kHeads = 4, kKvHeads = 2, kHeadDim = 32, kInner = 256, kRows = 3, kTable = 6;

void check(int32_t status) {
  if (status == HC_OK) return;
  std::printf("failed: %s\n", hc_error());
  std::exit(1);
}

struct Format {
  int32_t number;
  int values, bytes;
  std::initializer_list<int> scales; // where a block has its scales in float16
};

const Format kFormats[] = {
    {HC_F32, 1, 4, {}},      {HC_BF16, 1, 2, {}},        {HC_Q4_0, 32, 18, {0}},  {HC_Q4_1, 32, 20, {0, 2}},
    {HC_Q8_0, 32, 34, {0}},  {HC_Q5_1, 32, 24, {0, 2}},  {HC_Q4_K, 256, 144, {0, 2}}, {HC_Q6_K, 256, 210, {208}},
    {HC_U4_ZERO, 32, 20, {0, 2}}, {HC_U8_MIN, 32, 36, {0, 2}}, {HC_IQ4_NL, 32, 18, {0}},
};

// Random bytes whose values are small numbers.
std::vector<uint8_t> stored(const Format &format, std::size_t count) {
  std::vector<uint8_t> bytes(count / std::size_t(format.values) * std::size_t(format.bytes));
  if (format.number == HC_F32) {
    for (std::size_t i = 0; i < count; ++i) {
      const float value = float(std::rand() % 100 - 50) * 0.001f;
      std::memcpy(bytes.data() + 4 * i, &value, sizeof value);
    }
    return bytes;
  }
  for (uint8_t &byte : bytes) byte = uint8_t(std::rand());
  const uint16_t small = format.number == HC_BF16 ? 0x3c00 : 0x1400;
  for (std::size_t at = 0; at < bytes.size(); at += std::size_t(format.bytes)) {
    if (format.number == HC_BF16) {
      const uint16_t value = uint16_t(small | (std::rand() & 0x807f));
      std::memcpy(bytes.data() + at, &value, sizeof value);
    }
    for (int scale : format.scales) std::memcpy(bytes.data() + at + scale, &small, sizeof small);
  }
  return bytes;
}

class Stage {
 public:
  Stage(const Format &format, int activations, int num_experts, int kv_format, int tile) : format_(format) {
    const hc_stage_config config{sizeof config, kLayers, kHidden, kVocab, 1, 1, activations, kv_format, 200, 8, 64, HC_RMS_NORM, 1e-6f, 1, 1, 0, tile};
    check(hc_stage_new(&config, &stage_));
    const std::vector<float> frequencies(kHeadDim / 2, 0.1f);
    check(hc_rope(stage_, 0, frequencies.data(), kHeadDim / 2, 1));
    for (int layer = 0; layer < kLayers; ++layer) make_layer(layer, num_experts);
    matrix(-1, HC_EMBEDDING, 0, kVocab, kHidden);
    matrix(-1, HC_HEAD, 0, kVocab, kHidden);
    vector(-1, HC_FINAL_NORM, kHidden);
    check(hc_ready(stage_));
    check(hc_allocate(stage_, kRows * kTable + 1, 16));
  }
  ~Stage() { hc_stage_free(stage_); }

  void run() {
    int32_t starts[kRows] = {}, table[kRows * kTable];
    for (int i = 0; i < kRows * kTable; ++i) table[i] = i;
    for (int step = 0; step < 6; ++step) {
      const int counts[kRows] = {1 + step * 3, step == 0 ? 40 : 1, 2};
      int32_t offsets[kRows + 1] = {}, last[kRows];
      for (int row = 0; row < kRows; ++row) {
        offsets[row + 1] = offsets[row] + counts[row];
        last[row] = offsets[row + 1] - 1;
      }
      std::vector<int64_t> ids(static_cast<std::size_t>(offsets[kRows]));
      for (int64_t &id : ids) id = std::rand() % kVocab;
      std::vector<float> logits(kRows * kVocab), states(kHidden);
      const hc_batch batch{sizeof batch, kRows, offsets[kRows], kTable, starts, offsets, table, ids.data(), nullptr, nullptr, kRows, 1, last, last, logits.data(), states.data()};
      check(hc_step(stage_, &batch));
      for (float logit : logits)
        if (std::isnan(logit)) {
          std::puts("a logit is no number");
          std::exit(1);
        }
      for (int row = 0; row < kRows; ++row) starts[row] += counts[row];
    }
    const int32_t from = 0, to = kRows * kTable;
    check(hc_copy_blocks(stage_, 1, &from, &to));
  }

 private:
  void make_layer(int layer, int num_experts) {
    const hc_layer_config config{sizeof config, kHeads, kKvHeads, kHeadDim, kInner, HC_SILU, HC_QK_NORM, layer == 0 ? 0 : 24, 0, 0.17f, 0, 1, num_experts, num_experts > 0 ? 2 : 0};
    check(hc_layer(stage_, layer, &config));
    for (int norm : {HC_ATTN_NORM, HC_MLP_NORM}) vector(layer, norm, kHidden);
    for (int norm : {HC_Q_NORM, HC_K_NORM}) vector(layer, norm, kHeadDim);
    matrix(layer, HC_Q, 0, kHeads * kHeadDim, kHidden);
    for (int tensor : {HC_K, HC_V}) matrix(layer, tensor, 0, kKvHeads * kHeadDim, kHidden);
    matrix(layer, HC_O, 0, kHidden, kHeads * kHeadDim);
    for (int expert = 0; expert < (num_experts > 0 ? num_experts : 1); ++expert) {
      for (int tensor : {HC_GATE, HC_UP}) matrix(layer, tensor, expert, kInner, kHidden);
      matrix(layer, HC_DOWN, expert, kHidden, kInner);
    }
    if (num_experts > 0) matrix(layer, HC_ROUTER, 0, num_experts, kHidden);
  }

  void matrix(int layer, int tensor, int expert, int rows, int columns) {
    const Format &format = columns % format_.values == 0 ? format_ : kFormats[0];
    kept_.push_back(stored(format, std::size_t(rows) * std::size_t(columns)));
    check(hc_put(stage_, layer, tensor, expert, format.number, HC_KEEP, rows, columns, kept_.back().data()));
  }

  void vector(int layer, int tensor, int count) {
    const std::vector<float> ones(std::size_t(count), 1.0f);
    check(hc_put(stage_, layer, tensor, 0, HC_F32, HC_KEEP, 1, count, ones.data()));
  }

  const Format &format_;
  hc_stage *stage_ = nullptr;
  std::vector<std::vector<uint8_t>> kept_;
};

} // namespace

int main(int argc, char **argv) {
  if (argc > 1 && std::string(argv[1]) == "mistake") {
    std::vector<float> values(32);
    const std::vector<uint8_t> block(17); // one byte short
    return hc_dequantize(HC_Q4_0, 32, block.data(), values.data());
  }

  check(hc_use_threads(3));
  std::istringstream names(hc_kernels_available());
  for (std::string name; names >> name;) {
    check(hc_use_kernels(name.c_str()));
    check(hc_self_test());
    for (const Format &format : kFormats)
      for (int activations : {HC_ACT_F32, HC_ACT_BF16})
        for (int num_experts : {0, 4}) Stage(format, activations, num_experts, activations, 512).run();
    for (int activations : {HC_ACT_F32, HC_ACT_BF16})
      for (int kv_format : {activations, int(HC_KV_I8), activations == HC_ACT_F32 ? int(HC_KV_F16) : activations})
        for (int tile : {0, 64}) Stage(kFormats[0], activations, 0, kv_format, tile).run();
  }
  std::puts("fine");
}
