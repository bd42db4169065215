// Which kernels this processor can run, and which are in use.

#pragma once

#include <string>

#include "kernels.hpp"

namespace hc {

const Kernels &kernels_in_use();
const std::string &names_of_kernels(); // that run here, fastest first, separated by spaces
void use_kernels(const std::string &name); // raises `Error`

} // namespace hc
