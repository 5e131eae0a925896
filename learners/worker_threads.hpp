// WorkerThreads: a few threads that take part in one call after another; owned and called by one thread.
//
// They spin for some ten microseconds before they sleep, because the calls of a training loop follow each other closely
// and waking a thread costs as much as a whole small forward pass.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace myriad {

class WorkerThreads {
 public:
  explicit WorkerThreads(int workers) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this, i] { loop(static_cast<size_t>(i) + 1); });
  }
  ~WorkerThreads() {
    stop_ = true;
    call_.fetch_add(1);
    call_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  WorkerThreads(const WorkerThreads&) = delete;

  /// Runs `work(thread)` on the caller (thread 0) and every worker; returns when all have. `work` must not throw.
  void run(const std::function<void(size_t thread)>& work) {
    work_ = &work;
    busy_.store(threads_.size());
    call_.fetch_add(1);
    call_.notify_all();
    work(0);
    while (busy_.load(std::memory_order_acquire) != 0) pause();
  }

 private:
  static constexpr int kSpins = 2000;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  void loop(size_t thread) {
    uint64_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && call_.load(std::memory_order_acquire) == seen; ++i) pause();
      call_.wait(seen);
      seen = call_.load();
      if (stop_) return;
      (*work_)(thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::atomic<uint64_t> call_{0};
  std::atomic<size_t> busy_{0};
  std::atomic<bool> stop_{false};
  const std::function<void(size_t)>* work_ = nullptr;
  std::vector<std::thread> threads_;
};

}  // namespace myriad
