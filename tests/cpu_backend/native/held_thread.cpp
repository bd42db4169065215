// A thread of the pool is held, as by a system that gives its core to another program: outside of a task it holds up no
// region, inside of one it does (the control). With nodes of memory each thread begins with its own lane and helps the
// others. Says `fine`, or what is wrong.

#include <algorithm>
#include <atomic>
#include <barrier>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <sched.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "pool.hpp"

namespace {

constexpr int kThreads = 3, kRegions = 200, kTasks = 100;

int is_held[2], is_released[2]; // pipes

void check(bool is_right, const char *what) {
  if (is_right) return;
  std::printf("%s\n", what);
  std::exit(1);
}

void say(const int (&pipe)[2]) { check(write(pipe[1], "x", 1) == 1, "a pipe is closed"); }

void hear(const int (&pipe)[2]) {
  char byte;
  while (read(pipe[0], &byte, 1) != 1) {}
}

void hold(int) {
  say(is_held);
  hear(is_released);
  say(is_held); // no longer: what releases the next thread is not for this one
}

void release() {
  say(is_released);
  hear(is_held);
}

pid_t a_worker() {
  DIR *folder = opendir("/proc/self/task");
  pid_t found = 0;
  while (const dirent *entry = readdir(folder)) {
    const pid_t id = std::atoi(entry->d_name);
    if (id > 0 && id != getpid()) found = id;
  }
  closedir(folder);
  return found;
}

void regions_end_without_a_held_thread(hc::Pool &pool) {
  std::signal(SIGUSR1, hold);
  check(syscall(SYS_tgkill, getpid(), a_worker(), SIGUSR1) == 0, "the pool has no thread");
  hear(is_held);
  std::atomic<bool> took_part[kThreads] = {};
  for (int region = 0; region < kRegions; ++region) {
    std::vector<std::atomic<int>> times(kTasks);
    pool.run(kTasks, [&](int task, int thread) {
      ++times[std::size_t(task)];
      took_part[thread] = true;
    });
    for (const auto &count : times) check(count == 1, "a task was not done exactly once");
  }
  check(!(took_part[1] && took_part[2]), "the held thread has worked");
  release();
}

void a_region_waits_for_a_task_in_hand(hc::Pool &pool) {
  std::atomic<int> num_done{0};
  std::atomic<bool> is_in_hand{false}, has_ended{false};
  std::thread caller([&] {
    pool.run(kTasks, [&](int, int thread) {
      if (thread != 0 && !is_in_hand.exchange(true)) {
        is_in_hand.notify_all();
        hold(0);
      }
      is_in_hand.wait(false); // so that a thread besides the caller has a task
      if (++num_done == kTasks - 1) num_done.notify_all();
    });
    has_ended = true;
  });
  hear(is_held);
  for (int done = num_done; done < kTasks - 1; done = num_done) num_done.wait(done);
  check(!has_ended, "a region has ended before its tasks");
  release();
  caller.join();
  check(num_done == kTasks, "a task was lost");
}

// Every thread has a task in hand before any of them takes another one.
void threads_begin_with_their_own_lane(hc::Pool &pool, const std::vector<std::vector<int>> &nodes) {
  pool.resize(4, nodes);
  check(pool.num_lanes() == std::max(int(nodes.size()), 1), "there is not a lane for each node");
  std::barrier all(4);
  std::atomic<int> first[4] = {-1, -1, -1, -1}, num_done{0};
  pool.run(kTasks, [&](int task, int thread) {
    ++num_done;
    if (first[thread] != -1) return;
    first[thread] = task;
    all.arrive_and_wait();
  });
  check(num_done == kTasks, "a task was lost");
  int num_in_second = 0;
  for (const auto &task : first) num_in_second += task >= kTasks / 2;
  check(num_in_second == (nodes.empty() ? 0 : 2), "a thread has begun with another lane");
}

} // namespace

int main() {
  check(pipe(is_held) == 0 && pipe(is_released) == 0, "there are no pipes");
  hc::Pool &pool = hc::Pool::instance();
  pool.resize(kThreads);
  regions_end_without_a_held_thread(pool);
  a_region_waits_for_a_task_in_hand(pool);
  threads_begin_with_their_own_lane(pool, {});
  // Processors that the program may use; one of them can stand for two nodes.
  cpu_set_t usable;
  check(sched_getaffinity(0, sizeof usable, &usable) == 0, "there is no affinity");
  std::vector<int> processors;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor)
    if (CPU_ISSET(processor, &usable)) processors.push_back(processor);
  threads_begin_with_their_own_lane(pool, {{processors.front()}, {processors.back()}});
  std::printf("fine\n");
}
