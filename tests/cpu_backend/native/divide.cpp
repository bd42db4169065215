// How attention divides a step among threads: prints the number of tasks, and of pieces whose tiles are joined, for one
// row of each length (arguments: threads, heads of keys, tokens of the row in this step, then lengths).

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "attention.hpp"

int main(int argc, char **argv) {
  const int num_threads = std::atoi(argv[1]), num_kv_heads = std::atoi(argv[2]), num_tokens = std::atoi(argv[3]);
  std::vector<int32_t> starts, offsets{0};
  for (int i = 4; i < argc; ++i) {
    starts.push_back(std::atoi(argv[i]) - num_tokens);
    offsets.push_back(offsets.back() + num_tokens);
  }
  hc_batch batch{};
  batch.num_rows = int(starts.size());
  batch.num_tokens = offsets.back();
  batch.starts = starts.data();
  batch.offsets = offsets.data();
  const hc::AttentionShape shape{2 * num_kv_heads, num_kv_heads, 128, 0, 1.0f, 0.0f, nullptr};
  hc::AttentionPlan plan;
  plan.tile = 512;
  hc::divide(batch, shape, num_threads, plan);
  std::printf("%zu %zu\n", plan.tasks.size(), plan.joins.size());
}
