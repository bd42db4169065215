// Compares kernels with the plain ones on random numbers.

#pragma once

#include "kernels.hpp"

namespace hc {

// Raises `Error` that names the first kernel which differs by more than rounding explains.
void self_test(const Kernels &kernels);

} // namespace hc
