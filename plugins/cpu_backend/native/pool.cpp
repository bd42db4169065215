#include "pool.hpp"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hc {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `is_done` came true within the time of spinning.
template <class Condition> bool spin_until(Condition is_done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (is_done()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

} // namespace

Pool &Pool::instance() {
  // Never destroyed: threads of a process that exits may still be in a step.
  static Pool *pool = new Pool;
  return *pool;
}

Pool::~Pool() { stop(); }

void Pool::resize(int num_threads) {
  if (num_threads == this->num_threads()) return;
  std::unique_lock size(size_);
  std::lock_guard lock(one_region_);
  stop();
  for (int thread = 1; thread < num_threads; ++thread)
    workers_.emplace_back([this, thread, seen = region_.load()] { serve(thread, seen); });
  num_threads_.store(num_threads, std::memory_order_relaxed);
}

void Pool::stop() {
  is_stopping_ = true;
  region_.fetch_add(1);
  region_.notify_all();
  for (std::thread &worker : workers_) worker.join();
  workers_.clear();
  is_stopping_ = false;
}

void Pool::run_all(int count, Function function, const void *context) {
  std::lock_guard lock(one_region_);
  function_ = function;
  context_ = context;
  count_ = count;
  num_done_.store(0, std::memory_order_relaxed);
  tickets_.store(uint64_t(count) << 32, std::memory_order_release); // publishes all of it
  region_.fetch_add(1);
  if (num_asleep_.load() > 0) region_.notify_all();

  take_tasks(0);
  if (spin_until([this] { return is_done(); })) return;
  for (int done = num_done_.load(std::memory_order_acquire); done != count; done = num_done_.load(std::memory_order_acquire))
    num_done_.wait(done, std::memory_order_acquire);
}

void Pool::take_tasks(int thread) {
  while (true) {
    const uint64_t ticket = tickets_.fetch_add(1, std::memory_order_acquire);
    const uint32_t task = uint32_t(ticket), count = uint32_t(ticket >> 32);
    if (task >= count) return;
    function_(context_, int(task), thread);
    const int done = num_done_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (done == int(count) && thread != 0) num_done_.notify_one();
  }
}

void Pool::serve(int thread, uint32_t seen) {
  while (true) {
    if (!spin_until([&] { return region_.load(std::memory_order_acquire) != seen; })) {
      num_asleep_.fetch_add(1);
      region_.wait(seen); // returns at once where it has changed
      num_asleep_.fetch_sub(1);
    }
    seen = region_.load();
    if (is_stopping_) return;

    take_tasks(thread);
  }
}

} // namespace hc
