// The process's compute threads. A *region* runs one function for many tasks; the caller takes part and returns when all
// are done.
//
// Threads wait for the next region by spinning for a bounded time, because regions of one step follow each other within
// microseconds, and sleep behind that, because spinning threads beside a busy neighbour stop each other. Tasks are
// taken one by one from a counter, so that a thread that loses its core for a while does fewer of them. A region ends
// when its tasks are done: a thread that has lost its core without a task in hand is waited for by no other.
//
// Where memory is divided among nodes, threads may be as well: then each node has a *lane*, an equal part of the tasks,
// and its threads begin with that. So the thread that packed a part of the weights is near to the one that reads it.

#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

namespace hc {

class Pool {
 public:
  static constexpr int kMostLanes = 64;

  static Pool &instance();

  // Threads of later regions, the caller included. With nodes, each a list of processors, the calling thread and the
  // others are kept on them, an equal number on each. Waits for the steps that run now. Raises `Error` with
  // HC_UNSUPPORTED where the system keeps no thread on a node.
  void resize(int num_threads, const std::vector<std::vector<int>> &nodes = {});
  int num_threads() const { return num_threads_.load(std::memory_order_relaxed); }
  int num_lanes() const { return num_lanes_; }
  // Held for a whole step: its room is made for as many threads as there are.
  std::shared_lock<std::shared_mutex> keep_size() { return std::shared_lock(size_); }

  // Where the tasks of a lane begin.
  int first_of_lane(int count, int lane) const { return int(int64_t(count) * lane / num_lanes_); }

  // Runs `work(task, thread)` for tasks 0 … count - 1; threads are numbered from 0, the caller.
  template <class Work> void run(int count, Work &&work) {
    if (count <= 1 || num_threads() == 1) {
      for (int task = 0; task < count; ++task) work(task, 0);
      return;
    }
    run_all(count, [](const void *context, int task, int thread) { (*static_cast<const std::remove_reference_t<Work> *>(context))(task, thread); },
            &work);
  }

  ~Pool();

 private:
  using Function = void (*)(const void *, int, int);

  Pool() = default;
  void run_all(int count, Function function, const void *context);
  void take_tasks(int thread);
  bool take_task(int lane, int thread);
  void serve(int thread, uint32_t seen);
  void stop();
  bool is_done() const { return num_done_.load(std::memory_order_acquire) == count_; }
  int lane_of(int thread) const { return int(int64_t(thread) * num_lanes_ / num_threads()); }

  // The end of the lane's tasks in the upper half, the next one in the lower half: what a late thread takes is either a
  // task of the region that runs now or none.
  struct alignas(64) Tickets {
    std::atomic<uint64_t> word{0};
  };

  std::shared_mutex size_;
  std::atomic<int> num_threads_{1};
  int num_lanes_ = 1;
  std::vector<std::vector<int>> nodes_;
  std::vector<std::thread> workers_;
  // Of the region. Read only by the caller and by threads with a task of it in hand, so nothing is read while it changes.
  Function function_ = nullptr;
  const void *context_ = nullptr;
  int count_ = 0;
  std::array<Tickets, kMostLanes> tickets_;
  alignas(64) std::atomic<uint32_t> region_{0}; // counts regions; workers wait for it to change
  alignas(64) std::atomic<int> num_done_{0};
  std::atomic<int> num_asleep_{0};
  std::atomic<bool> is_stopping_{false};
  std::mutex one_region_; // stages on several threads of one process take turns
};

} // namespace hc
