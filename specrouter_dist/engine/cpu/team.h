// Threads that run one function together, with barriers in it.
//
// A member's forward is one such run: its threads are woken once, not for every operation. Those
// that wait spin briefly and then sleep, so that an idle member takes no core from another.
#pragma once

#include <sched.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "vector.h"

namespace specrouter {

class Team {
 public:
  ~Team() {
    stopping_ = true;
    begin(1);
    for (std::thread& thread : threads_) thread.join();
  }

  // Runs work(0) ... work(size - 1) at once, the first on this thread.
  void run(int size, const std::function<void(int)>& work) {
    if (size == 1) return work(0);
    const std::lock_guard<std::mutex> alone(running_);
    while (static_cast<int>(threads_.size()) < size - 1)
      threads_.emplace_back(
          [this, index = static_cast<int>(threads_.size()) + 1] { serve(index); });
    work_ = &work;
    for (int index = 0; index < size; ++index) arrivals_[index].store(0, std::memory_order_relaxed);
    left_.store(size - 1, std::memory_order_relaxed);
    begin(size);
    work(0);
    wait_until([this] { return left_.load(std::memory_order_acquire) == 0; });
  }

  // All `size` threads of a run come here before any goes on. Each counts its own arrivals, in a
  // cache line that the others only read.
  void meet(int index, int size) {
    if (size == 1) return;
    const int turn = arrivals_[index].load(std::memory_order_relaxed) + 1;
    arrivals_[index].store(turn, std::memory_order_release);
    for (int other = 0; other < size; ++other)
      wait_until([&] { return arrivals_[other].load(std::memory_order_acquire) - turn >= 0; });
  }

 private:
  static constexpr int kSpins = 2000;
  static constexpr int kSizes = 1 << 10;

  struct alignas(64) Counter : std::atomic<int> {
    using std::atomic<int>::atomic;
  };

  // The size is part of the round: who is late must not take part in the next by the last's size.
  void begin(int size) {
    const int number = round_.load(std::memory_order_relaxed) / kSizes + 1;
    round_.store(number % kSizes * kSizes + size, std::memory_order_release);
    round_.notify_all();
  }

  template <typename Condition>
  static bool spin(Condition holds) {
    for (int i = 0; i < kSpins; ++i) {
      if (holds()) return true;
      pause();
    }
    return false;
  }

  // The others are at work, unless the system has taken a core from them.
  template <typename Condition>
  static void wait_until(Condition holds) {
    while (!spin(holds)) sched_yield();
  }

  void serve(int index) {
    int seen = 0;
    while (true) {
      if (!spin([&] { return round_.load(std::memory_order_acquire) != seen; })) round_.wait(seen);
      const int round = round_.load(std::memory_order_acquire);
      if (round == seen) continue;
      seen = round;
      if (stopping_) return;
      if (index >= round % kSizes) continue;
      (*work_)(index);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::mutex running_;  // engines of one process take turns
  std::vector<std::thread> threads_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<bool> stopping_{false};
  Counter round_, left_, arrivals_[kSizes];
};

}  // namespace specrouter
