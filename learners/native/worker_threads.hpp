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

  /// Runs `work(thread)` on the caller (thread 0) and on the workers that come while it lasts; returns when all of
  /// these have finished. `work` shares out its tasks itself and must not throw. A worker the system does not schedule
  /// in time takes no part, so that a busy machine slows a call down and never stalls it.
  void run(const std::function<void(size_t thread)>& work) {
    work_ = &work;
    gate_.store(kOpen, std::memory_order_release);
    call_.fetch_add(1);
    call_.notify_all();
    work(0);
    gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int i = 0; gate_.load(std::memory_order_acquire) != 0; ++i) i < kSpins ? pause() : std::this_thread::yield();
  }

 private:
  static constexpr int kSpins = 2000;
  static constexpr uint32_t kOpen = 1u << 31;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  /// Whether the call is still open; then it counts this worker as inside.
  bool enter() {
    uint32_t gate = gate_.load(std::memory_order_acquire);
    while ((gate & kOpen) != 0)
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void loop(size_t thread) {
    uint64_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && call_.load(std::memory_order_acquire) == seen; ++i) pause();
      call_.wait(seen);
      seen = call_.load();
      if (stop_) return;
      if (!enter()) continue;
      (*work_)(thread);
      gate_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::atomic<uint64_t> call_{0};
  std::atomic<uint32_t> gate_{0};  ///< kOpen + the workers inside
  std::atomic<bool> stop_{false};
  const std::function<void(size_t)>* work_ = nullptr;
  std::vector<std::thread> threads_;
};

}  // namespace myriad
