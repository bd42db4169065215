#include "choose.hpp"

#include <vector>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "error.hpp"

namespace hc {
namespace {

// Whether the processor multiplies matrices of bfloat16 and bytes, and the system lets this process use them.
bool has_matrices() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned bf16 = 1u << 22, tiles = 1u << 24, int8 = 1u << 25;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & (bf16 | tiles | int8)) != (bf16 | tiles | int8)) return false;
  constexpr long request_permission = 0x1023, tile_data = 18; // ARCH_REQ_XCOMP_PERM of asm/prctl.h, for all threads
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

// This file is compiled for the plainest processor of its kind: it has to run before the choice is made.
std::vector<const Kernels *> find_kernels() {
  std::vector<const Kernels *> found;
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  const bool has_2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_bf16 = has_512 && __builtin_cpu_supports("avx512bf16");
  if (has_bf16 && has_matrices()) found.push_back(amx_kernels());
  if (has_bf16) found.push_back(avx512_bf16_kernels());
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
