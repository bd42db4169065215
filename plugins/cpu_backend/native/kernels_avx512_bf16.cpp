// AVX512 with VNNI and BF16: AMD from Zen 4, Intel from Cooper Lake.

#include "isa_avx512.hpp"

#include "kernels.inc.hpp"

namespace hc {
namespace {
constinit const Kernels kernels = make_kernels("avx512-bf16");
}

const Kernels *avx512_bf16_kernels() { return &kernels; }
} // namespace hc
