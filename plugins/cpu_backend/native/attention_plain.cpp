// Attention as it is written down: all scores of a query, their softmax, and the weighted sum of values. It reads every
// key once for each query, and is there to check the tiled one with.

#include <algorithm>
#include <cmath>

#include "attention.hpp"

namespace hc {

void attend_plain(const AttentionCall &call, float *scores, std::size_t max_context) {
  const AttentionShape &shape = call.shape;
  const hc_batch &batch = call.batch;
  call.pool.run(batch.num_tokens * shape.num_heads, [&](int task, int thread) {
    const int token = task / shape.num_heads, head = task % shape.num_heads, kv_head = head / shape.group();
    const int row = int(std::upper_bound(batch.offsets, batch.offsets + batch.num_rows + 1, token) - batch.offsets) - 1;
    const int last = batch.starts[row] + token - batch.offsets[row], first = shape.window > 0 ? std::max(0, last + 1 - shape.window) : 0;
    const int32_t *table = batch.block_tables + std::size_t(row) * std::size_t(batch.table_width);
    const std::size_t at = std::size_t(token) * call.stride + std::size_t(head * shape.head_dim);
    const float *query = call.queries + at;
    float *own = scores + std::size_t(thread) * max_context, *output = call.outputs + at;

    double largest = shape.sinks == nullptr ? -HUGE_VAL : double(shape.sinks[head]);
    for (int key = first; key <= last; ++key) {
      double sum = 0;
      for (int d = 0; d < shape.head_dim; ++d) sum += double(query[d]) * double(call.cache.key(table[key / call.block_size], key % call.block_size, kv_head, d));
      sum *= double(shape.scale);
      if (shape.softcap > 0) sum = double(shape.softcap) * std::tanh(sum / double(shape.softcap));
      own[key - first] = float(sum);
      largest = std::max(largest, double(own[key - first]));
    }

    double total = shape.sinks == nullptr ? 0 : std::exp(double(shape.sinks[head]) - largest);
    std::fill_n(output, shape.head_dim, 0.0f);
    for (int key = first; key <= last; ++key) {
      const double weight = std::exp(double(own[key - first]) - largest);
      total += weight;
      for (int d = 0; d < shape.head_dim; ++d) output[d] += float(weight) * call.cache.value(table[key / call.block_size], key % call.block_size, kv_head, d);
    }
    for (int d = 0; d < shape.head_dim; ++d) output[d] /= float(total);
  });
}

} // namespace hc
