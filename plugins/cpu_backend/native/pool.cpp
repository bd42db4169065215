#include "pool.hpp"

#include <chrono>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "error.hpp"

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

// Keeps the calling thread on these processors.
void keep_on([[maybe_unused]] const std::vector<int> &processors) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int processor : processors)
    if (processor >= 0 && processor < CPU_SETSIZE) CPU_SET(processor, &set);
  if (pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0) return;
#endif
  throw Error(HC_UNSUPPORTED, "the system does not keep threads on the processors of a node");
}

} // namespace

Pool &Pool::instance() {
  // Never destroyed: threads of a process that exits may still be in a step.
  static Pool *pool = new Pool;
  return *pool;
}

Pool::~Pool() { stop(); }

void Pool::resize(int num_threads, const std::vector<std::vector<int>> &nodes) {
  if (num_threads == this->num_threads() && nodes == nodes_) return;
  std::unique_lock size(size_);
  std::lock_guard lock(one_region_);
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) keep_on(*node); // each can be, and the caller ends on the first
  stop();
  num_threads_.store(num_threads, std::memory_order_relaxed);
  num_lanes_ = nodes.empty() ? 1 : int(nodes.size());
  nodes_ = nodes;
  for (int thread = 1; thread < num_threads; ++thread)
    workers_.emplace_back([this, thread, seen = region_.load()] {
      if (!nodes_.empty()) keep_on(nodes_[std::size_t(lane_of(thread))]);
      serve(thread, seen);
    });
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
  for (int lane = 0; lane < num_lanes_; ++lane) {
    const uint64_t begin = uint64_t(first_of_lane(count, lane)), end = uint64_t(first_of_lane(count, lane + 1));
    tickets_[std::size_t(lane)].word.store(end << 32 | begin, std::memory_order_release); // publishes what is above
  }
  region_.fetch_add(1);
  if (num_asleep_.load() > 0) region_.notify_all();

  take_tasks(0);
  if (spin_until([this] { return is_done(); })) return;
  for (int done = num_done_.load(std::memory_order_acquire); done != count; done = num_done_.load(std::memory_order_acquire))
    num_done_.wait(done, std::memory_order_acquire);
}

// Those of the thread's own lane first.
void Pool::take_tasks(int thread) {
  const int own = lane_of(thread);
  for (int i = 0; i < num_lanes_; ++i)
    while (take_task((own + i) % num_lanes_, thread)) {}
}

// Whether there was one.
bool Pool::take_task(int lane, int thread) {
  const uint64_t ticket = tickets_[std::size_t(lane)].word.fetch_add(1, std::memory_order_acquire);
  const uint32_t task = uint32_t(ticket), end = uint32_t(ticket >> 32);
  if (task >= end) return false;
  function_(context_, int(task), thread);
  // The region may be over, and count_ another one's, as soon as this task counts as done.
  const int count = count_, done = num_done_.fetch_add(1, std::memory_order_acq_rel) + 1;
  if (done == count && thread != 0) num_done_.notify_one();
  return true;
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
