#include "choose.hpp"

#include <vector>

#include "error.hpp"

namespace hc {
namespace {

// This file is compiled for the plainest processor of its kind: it has to run before the choice is made.
std::vector<const Kernels *> find_kernels() {
  std::vector<const Kernels *> found;
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  const bool has_2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (has_512 && __builtin_cpu_supports("avx512bf16")) found.push_back(avx512_bf16_kernels());
  if (has_512) found.push_back(avx512_kernels());
  if (has_2) found.push_back(avx2_kernels());
#elif defined(__aarch64__)
  found.push_back(neon_kernels());
#endif
  found.push_back(plain_kernels());
  return found;
}

const std::vector<const Kernels *> &available() {
  static const std::vector<const Kernels *> found = find_kernels();
  return found;
}

const Kernels *&in_use() {
  static const Kernels *kernels = available().front();
  return kernels;
}

} // namespace

const Kernels &kernels_in_use() { return *in_use(); }

const std::string &names_of_kernels() {
  static const std::string names = [] {
    std::string text;
    for (const Kernels *kernels : available()) {
      if (!text.empty()) text += ' ';
      text += kernels->name;
    }
    return text;
  }();
  return names;
}

void use_kernels(const std::string &name) {
  for (const Kernels *kernels : available())
    if (name == kernels->name) {
      in_use() = kernels;
      return;
    }
  throw Error(HC_UNSUPPORTED, "this processor has no kernels of this name; it has " + names_of_kernels());
}

} // namespace hc
