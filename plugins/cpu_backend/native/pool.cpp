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
  next_task_.store(0, std::memory_order_relaxed);
  num_at_work_.store(int(workers_.size()), std::memory_order_relaxed);
  region_.fetch_add(1); // publishes all of it
  if (num_asleep_.load() > 0) region_.notify_all();

  take_tasks(0);
  const auto is_done = [this] { return num_at_work_.load(std::memory_order_acquire) == 0; };
  if (spin_until(is_done)) return;
  for (int left = num_at_work_.load(std::memory_order_acquire); left != 0; left = num_at_work_.load(std::memory_order_acquire))
    num_at_work_.wait(left, std::memory_order_acquire);
}

void Pool::take_tasks(int thread) {
  for (int task = next_task_.fetch_add(1, std::memory_order_relaxed); task < count_; task = next_task_.fetch_add(1, std::memory_order_relaxed))
    function_(context_, task, thread);
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
    if (num_at_work_.fetch_sub(1, std::memory_order_acq_rel) == 1) num_at_work_.notify_all();
  }
}

} // namespace hc
