// AVX512 with VNNI: Intel from Cascade Lake, AMD from Zen 4.

#include "isa_avx512.hpp"

#include "kernels.inc.hpp"

namespace hc {
namespace {
constinit const Kernels kernels = make_kernels("avx512");
}

const Kernels *avx512_kernels() { return &kernels; }
} // namespace hc
