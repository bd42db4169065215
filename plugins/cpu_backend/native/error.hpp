// Failures inside the library; `abi.cpp` turns them into a status and a text.

#pragma once

#include <stdexcept>
#include <string>

#include "histrio_cpu.h"

namespace hc {

struct Error : std::runtime_error {
  Error(hc_status status, const std::string &text) : std::runtime_error(text), status(status) {}
  hc_status status;
};

inline void require(bool holds, const std::string &text) {
  if (!holds) throw Error(HC_BAD_ARGUMENT, text);
}

} // namespace hc
