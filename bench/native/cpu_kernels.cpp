// Times the native library's linears by format, shape and rows, beside what the processor can read and multiply.
//
//   cpu_kernels THREADS MEGABYTES ROUNDS FORMATS [KERNELS]
//
// Every linear lies in memory as often as MEGABYTES needs, so that none comes from a cache. The rounds go through all
// cases and the two limits in turn, and the least time of each counts: other programs disturb only some rounds. One
// thread is timed by the processor time it got, several by the clock.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "choose.hpp"
#include "error.hpp"
#include "formats.hpp"
#include "linear.hpp"

namespace {

using namespace hc;

struct Format {
  const char *name;
  int32_t stored, storage;
  bool is_integer; // multiplied by vpdpbusd, not by vdpbf16ps
};

constexpr Format kFormats[] = {
    {"bf16", HC_BF16, HC_KEEP, false}, {"q8_0", HC_Q8_0, HC_KEEP, true}, {"q4_0", HC_Q4_0, HC_KEEP, true},
    {"q4", HC_F32, HC_AS_Q4, true},    {"q4_k", HC_Q4_K, HC_KEEP, true}, {"q6_k", HC_Q6_K, HC_KEEP, true},
};

// Of Qwen3-0.6B: queries, the way out of attention and MLP, the MLP's two wide ones together, the head.
struct Shape {
  int outputs, inputs;
};
constexpr Shape kShapes[] = {{2048, 1024}, {1024, 3072}, {6144, 1024}, {151936, 1024}};
constexpr int kRows[] = {1, 2, 4, 8, 16, 64, 512};
constexpr double kMostOperations = 6e10; // of a round of a case

double now(bool is_alone) {
  timespec time;
  clock_gettime(is_alone ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) int64_t add_up(const std::byte *from, std::size_t bytes) {
  __m512i sums[8] = {};
  for (std::size_t at = 0; at < bytes; at += 512)
    for (int i = 0; i < 8; ++i) sums[i] = _mm512_add_epi64(sums[i], _mm512_load_si512(from + at + std::size_t(i) * 64));
  for (int i = 1; i < 8; ++i) sums[0] = _mm512_add_epi64(sums[0], sums[i]);
  return _mm512_reduce_add_epi64(sums[0]);
}

constexpr int kChains = 16, kTurns = 1 << 14;

__attribute__((target("avx512f,avx512vnni"))) int issue_integers() {
  __m512i sums[kChains] = {};
  const __m512i a = _mm512_set1_epi32(0x01010101);
  for (int turn = 0; turn < kTurns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) asm volatile("vpdpbusd %1, %1, %0" : "+v"(sums[i]) : "v"(a));
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  return _mm512_reduce_add_epi32(sums[0]);
}

__attribute__((target("avx512f,avx512bf16"))) int issue_bf16() {
  __m512 sums[kChains] = {};
  const __m512i a = _mm512_set1_epi32(0);
  for (int turn = 0; turn < kTurns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) asm volatile("vdpbf16ps %1, %1, %0" : "+v"(sums[i]) : "v"(a));
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  return int(_mm512_reduce_add_ps(sums[0]));
}
#endif

struct Case {
  std::string name;
  bool is_integer;
  double bytes, operations; // of a call; 0 where it is a limit of the other kind
  int calls;
  std::function<void()> work;
  double seconds = 1e9; // of a call
};

std::vector<Linear> copies_of(Slabs &slabs, const Format &format, const Shape &shape, std::size_t most_bytes) {
  std::vector<std::byte> data(std::size_t(shape.outputs) * row_bytes(format.stored, shape.inputs));
  uint32_t state = 1;
  for (std::byte &byte : data) byte = std::byte((state = state * 1664525u + 1013904223u) >> 26); // small numbers in every format
  std::vector<Linear> copies{pack(slabs, format.stored, format.storage, shape.outputs, shape.inputs, data.data(), true)};
  while (copies.size() * copies[0].num_bytes < most_bytes) {
    Linear copy = copies[0];
    std::byte *panels = slabs.take(copy.num_bytes);
    std::memcpy(panels, copy.panels, copy.num_bytes);
    copy.panels = panels;
    copies.push_back(copy);
  }
  return copies;
}

} // namespace

int main(int count, char **arguments) {
  if (count != 5 && count != 6) return std::fprintf(stderr, "cpu_kernels THREADS MEGABYTES ROUNDS FORMATS [KERNELS]\n"), 2;
  const int num_threads = std::atoi(arguments[1]), num_rounds = std::atoi(arguments[3]);
  const std::size_t most_bytes = std::size_t(std::atoi(arguments[2])) << 20;
  const std::string chosen = ',' + std::string(arguments[4]) + ',';
  try {
    if (count == 6) use_kernels(arguments[5]);
  } catch (const Error &error) {
    return std::fprintf(stderr, "%s\n", error.what()), 2;
  }
  Pool &pool = Pool::instance();
  pool.resize(num_threads);
  const Kernels &kernels = kernels_in_use();
  LinearScratch scratch(num_threads);
  InputRows rows(512, 3072);
  std::vector<float> values(3072, 0.5f), outputs(std::size_t(512) * 6144);
  outputs.resize(std::max(outputs.size(), std::size_t(16) * 151936));

  std::vector<Case> limits;
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512vnni")) return std::fprintf(stderr, "limits are measured with AVX512 and VNNI, which this processor lacks\n"), 3;
  Array<std::byte> memory(most_bytes);
  std::memset(memory.data(), 1, most_bytes);
  static volatile int64_t sink;
  limits.push_back({"read", false, double(most_bytes), 0, 1, [&] {
                      constexpr std::size_t part = 1 << 18;
                      pool.run(int(most_bytes / part), [&](int task, int) { sink = add_up(memory.data() + std::size_t(task) * part, part); });
                    }});
  const double issued = 2.0 * 64 * kChains * kTurns * num_threads;
  limits.push_back({"vpdpbusd", true, 0, issued, 4, [&] { pool.run(num_threads, [&](int, int) { sink = issue_integers(); }); }});
  if (__builtin_cpu_supports("avx512bf16"))
    limits.push_back({"vdpbf16ps", false, 0, issued / 2, 4, [&] { pool.run(num_threads, [&](int, int) { sink = issue_bf16(); }); }});
#endif

  const auto measure = [&](std::vector<Case> &cases) {
    for (Case &each : cases) {
      const double begin = now(num_threads == 1);
      for (int call = 0; call < each.calls; ++call) each.work();
      each.seconds = std::min(each.seconds, (now(num_threads == 1) - begin) / each.calls);
    }
  };
  std::vector<Case> all;
  for (const Format &format : kFormats)
    for (const Shape &shape : kShapes) {
      if (chosen.find(',' + std::string(format.name) + ',') == std::string::npos) continue;
      Slabs slabs;
      const std::vector<Linear> copies = copies_of(slabs, format, shape, most_bytes);
      rows.shape(shape.inputs);
      InputRows::Forms forms;
      forms.add(copies[0]);
      for (int row = 0; row < 512; ++row) rows.fill(kernels, forms, row, values.data());
      std::vector<Case> cases;
      std::size_t next = 0;
      for (int num_rows : kRows) {
        if (std::size_t(num_rows) * std::size_t(shape.outputs) > outputs.size()) continue;
        const double operations = 2.0 * num_rows * shape.outputs * shape.inputs;
        cases.push_back({std::string(format.name) + '\t' + std::to_string(shape.outputs) + '\t' + std::to_string(shape.inputs) + '\t' + std::to_string(num_rows),
                         format.is_integer, double(copies[0].num_bytes), operations,
                         std::clamp(int(kMostOperations / operations), 1, int(copies.size())), [&, num_rows] {
                           const Use use{&copies[next++ % copies.size()], 0, num_rows, Use::kStore, outputs.data(), std::size_t(shape.outputs)};
                           run(kernels, pool, scratch, &use, 1, rows);
                         }});
      }
      for (int round = 0; round < num_rounds; ++round) {
        measure(limits);
        measure(cases);
      }
      for (Case &each : cases) all.push_back({each.name, each.is_integer, each.bytes, each.operations, 1, nullptr, each.seconds});
    }

  double read = 0, integers = 0, pairs = 0;
  for (const Case &limit : limits) {
    std::printf("limit\t%s\t%.1f\n", limit.name.c_str(), (limit.bytes + limit.operations) / limit.seconds * 1e-9);
    (limit.bytes > 0 ? read : limit.is_integer ? integers : pairs) = (limit.bytes + limit.operations) / limit.seconds;
  }
  for (const Case &each : all) {
    const double peak = each.is_integer ? integers : pairs;
    std::printf("linear\t%s\t%.1f\t%.2f\t%.3f\t%.1f\t%.3f\n", each.name.c_str(), each.seconds * 1e6, each.bytes / each.seconds * 1e-9,
                read > 0 ? each.bytes / each.seconds / read : 0.0, each.operations / each.seconds * 1e-9, peak > 0 ? each.operations / each.seconds / peak : 0.0);
  }
  return 0;
}
