// Memory that steps read and write: aligned for vectors, in huge pages where the system has them, because the walk
// through page tables would cost a part of the bandwidth.

#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace hc {

// `count` values of T, uninitialised; freed with the object.
template <class T> class Array {
 public:
  Array() = default;
  explicit Array(std::size_t count);

  T *data() { return static_cast<T *>(memory_.get()); }
  const T *data() const { return static_cast<const T *>(memory_.get()); }
  std::size_t size() const { return size_; }
  T &operator[](std::size_t i) { return data()[i]; }
  const T &operator[](std::size_t i) const { return data()[i]; }

 private:
  struct Free {
    std::size_t num_bytes = 0;
    void operator()(void *memory) const;
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t size_ = 0;
};

// Raises `Error` with HC_NO_MEMORY.
void *allocate_bytes(std::size_t count);
void free_bytes(void *memory, std::size_t count);

template <class T> Array<T>::Array(std::size_t count) : memory_(allocate_bytes(count * sizeof(T)), Free{count * sizeof(T)}), size_(count) {}
template <class T> void Array<T>::Free::operator()(void *memory) const { free_bytes(memory, num_bytes); }

// Pieces of a few large arrays: hundreds of tensors would waste a part of a huge page each.
class Slabs {
 public:
  std::byte *take(std::size_t bytes);

 private:
  std::vector<Array<std::byte>> slabs_;
  std::size_t used_ = 0; // of the last one
};

} // namespace hc
