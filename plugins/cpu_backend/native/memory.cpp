#include "memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "error.hpp"

namespace hc {
namespace {

constexpr std::size_t kHugePage = std::size_t(2) << 20;
constexpr std::size_t kLine = 64;
constexpr std::size_t kSlab = std::size_t(32) << 20;

std::size_t round_up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

std::align_val_t alignment_of(std::size_t bytes) { return std::align_val_t(bytes >= kHugePage ? kHugePage : kLine); }

} // namespace

void *allocate_bytes(std::size_t count) {
  void *memory = ::operator new(std::max<std::size_t>(count, 1), alignment_of(count), std::nothrow);
  if (memory == nullptr) throw Error(HC_NO_MEMORY, "cannot allocate " + std::to_string(count >> 20) + " MiB");
#if defined(__linux__)
  if (count >= kHugePage) madvise(memory, count, MADV_HUGEPAGE);
#endif
  return memory;
}

void free_bytes(void *memory, std::size_t count) { ::operator delete(memory, alignment_of(count)); }

std::byte *Slabs::take(std::size_t bytes) {
  bytes = round_up(bytes, kLine);
  if (slabs_.empty() || used_ + bytes > slabs_.back().size()) {
    slabs_.emplace_back(std::max(bytes, kSlab));
    used_ = 0;
  }
  std::byte *memory = slabs_.back().data() + used_;
  used_ += bytes;
  return memory;
}

} // namespace hc
