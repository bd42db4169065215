// A thread of the pool is held, as by a system that gives its core to another program: outside of a task it holds up no
// region, inside of one it does (the control). Says `fine`, or what is wrong.

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
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
  say(is_released);
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
  say(is_released);
  caller.join();
  check(num_done == kTasks, "a task was lost");
}

} // namespace

int main() {
  check(pipe(is_held) == 0 && pipe(is_released) == 0, "there are no pipes");
  hc::Pool &pool = hc::Pool::instance();
  pool.resize(kThreads);
  regions_end_without_a_held_thread(pool);
  a_region_waits_for_a_task_in_hand(pool);
  std::printf("fine\n");
}
