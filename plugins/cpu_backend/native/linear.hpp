// Linears: weights packed into panels, the inputs that their kernels read, and running several of them at once.

#pragma once

#include <memory>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace hc {

// y = W x + bias, with W [outputs, inputs] in panels of 64 outputs; the last one is filled up with zeros.
struct Linear {
  Weights weights = kWeightsF32;
  Inputs inputs = kInputsF32;
  int num_outputs = 0;
  int num_inputs = 0;
  int num_panels = 0;
  int num_groups = 0; // of 32 inputs
  std::size_t group_bytes = 0;
  std::size_t num_bytes = 0;
  const std::byte *panels = nullptr;
  const float *bias = nullptr; // [num_panels * kPanel], or none

  const std::byte *panel(int index) const { return panels + std::size_t(index) * std::size_t(num_groups) * group_bytes; }
};

// A linear without its panels: how many there are, and how many bytes they take.
Linear shape_of(int32_t format, int32_t storage, int num_outputs, int num_inputs, bool keeps_bf16);

// Packs rows as a checkpoint stores them. `keeps_bf16` says whether inputs may be rounded to bfloat16.
Linear pack(Slabs &slabs, int32_t format, int32_t storage, int num_outputs, int num_inputs, const std::byte *data, bool keeps_bf16);
// The same from panels that were packed before.
Linear copy_packed(Slabs &slabs, int32_t format, int32_t storage, int num_outputs, int num_inputs, const std::byte *data, bool keeps_bf16);

// Rows of numbers in every form that the linears which read them want.
class InputRows {
 public:
  InputRows() = default;
  InputRows(int max_rows, int max_inputs);

  // Whether each form is wanted by one of the linears.
  struct Forms {
    bool is_wanted[kNumInputs] = {};
    void add(const Linear &linear) { is_wanted[linear.inputs] = true; }
  };

  // Writes row `row` of `count` values; rows have this length until the next `shape`.
  void fill(const Kernels &kernels, const Forms &forms, int row, const float *values);
  void shape(int count);
  Input input(Inputs kind) const;

 private:
  int count_ = 0;
  std::size_t stride_ = 0;
  Array<float> f32_;
  Array<uint16_t> bf16_;
  Array<int8_t> q8_;
  Array<float> scales_;
  Array<int32_t> sums_;
};

// What becomes of a linear's results.
struct Use {
  enum Mode { kStore, kAdd, kGate, kActivate };

  const Linear *linear;
  int first_row; // of the input, and of the output
  int num_rows;
  Mode mode;
  float *output; // [rows, stride]
  std::size_t stride;
  const Linear *gate = nullptr; // of kGate, whose result is act(gate) * linear
  float scale = 1.0f; // kAdd: of what is added; kStore: of what is stored
  float softcap = 0.0f; // kStore: 0 for none
  int activation = 0;
  float alpha = 0.0f, limit = 0.0f; // of HC_CLIPPED
};

// Room for the sums of one task, one per thread.
class LinearScratch {
 public:
  explicit LinearScratch(int num_threads);
  float *sums(int thread, int which) { return sums_.data() + (std::size_t(thread) * 2 + std::size_t(which)) * kRowsAtOnce * kPanel; }
  static constexpr int kRowsAtOnce = 192;

 private:
  Array<float> sums_;
};

void run(const Kernels &kernels, Pool &pool, LinearScratch &scratch, const Use *uses, int num_uses, const InputRows &rows);

// Values of an activation that need the error function, in place of the kernels' own.
void gelu_exact(float *x, int count);

} // namespace hc
