#include "learners/backend_collective.hpp"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "learners/counted_collective.hpp"

namespace myriad {
namespace {

using Work = c10::intrusive_ptr<c10d::Work>;
using Backend = c10::intrusive_ptr<c10d::Backend>;

/// Whether an operation has ended, for the thread that waits; outlives the collective where the operation does.
struct Completion {
  std::mutex mutex;
  std::condition_variable changed;
  bool aborted = false, done = false;
  std::string error;
};

/// What is left of a broken group: an operation may still be running on the tensors, and to destroy a backend is to
/// wait for its operations. So a thread of their own closes the connections, waits, and takes them away.
struct Remains {
  Backend backend;
  Work work;
  at::Tensor in, out;
  std::function<void()> disconnect;
};

void bury(Remains remains) {
  std::thread([remains = std::move(remains)] {
    try {
      if (remains.disconnect) remains.disconnect();
      if (remains.work) remains.work->wait();
    } catch (const std::exception&) {}  // it is over either way
  }).detach();
}

class BackendCollective final : public CountedCollective {
 public:
  BackendCollective(Backend backend, at::Device device, std::chrono::milliseconds deadline,
                    std::function<void()> disconnect)
      : backend_(std::move(backend)), device_(device), deadline_(deadline), disconnect_(std::move(disconnect)) {}

  uint32_t rank() const override { return static_cast<uint32_t>(backend_->getRank()); }
  uint32_t size() const override { return static_cast<uint32_t>(backend_->getSize()); }

  void abort() noexcept override {
    {
      const std::lock_guard lock(completion_->mutex);
      completion_->aborted = true;
    }
    completion_->changed.notify_all();
  }

  void all_reduce(std::span<float> values) override { sum(values, at::kFloat); }
  void all_reduce(std::span<double> values) override { sum(values, at::kDouble); }

  void reduce(std::span<float> values, uint32_t root) override {
    at::Tensor tensor = staged(std::as_bytes(values), in_, at::kFloat);
    run([&] {
      std::vector<at::Tensor> tensors{tensor};
      c10d::ReduceOptions options;
      options.rootRank = static_cast<int>(root);
      return backend_->reduce(tensors, options);
    });
    if (rank() == root) unstage(tensor, std::as_writable_bytes(values));
  }

  void broadcast(std::span<std::byte> bytes, uint32_t root) override {
    if (bytes.empty()) return;
    at::Tensor tensor = rank() == root ? staged(bytes, in_, at::kByte) : room(in_, bytes.size(), at::kByte);
    run([&] {
      std::vector<at::Tensor> tensors{tensor};
      c10d::BroadcastOptions options;
      options.rootRank = static_cast<int>(root);
      return backend_->broadcast(tensors, options);
    });
    if (rank() != root) unstage(tensor, bytes);
  }

  void all_gather(std::span<std::byte> bytes, size_t chunk) override {
    const size_t begin = std::min(rank() * chunk, bytes.size()), own = std::min(chunk, bytes.size() - begin);
    at::Tensor in = room(in_, chunk, at::kByte), out = room(out_, chunk * size(), at::kByte);
    stage(bytes.subspan(begin, own), in);
    run([&] { return backend_->_allgather_base(out, in); });
    unstage(out.narrow(0, 0, static_cast<int64_t>(bytes.size())), bytes);
  }

  void shift(std::span<const std::byte> mine, std::span<std::byte> left) override {
    at::Tensor in = staged(mine, in_, at::kByte), out = room(out_, left.size(), at::kByte);
    const auto n = static_cast<size_t>(size());
    std::vector<int64_t> to(n, 0), from(n, 0);
    to[(rank() + 1) % n] = static_cast<int64_t>(mine.size());
    from[(rank() + n - 1) % n] = static_cast<int64_t>(left.size());
    run([&] { return backend_->alltoall_base(out, in, from, to); });
    unstage(out, left);
  }

 private:
  template <class T>
  void sum(std::span<T> values, at::ScalarType type) {
    if (values.empty()) return;
    at::Tensor tensor = staged(std::as_bytes(values), in_, type);
    run([&] {
      std::vector<at::Tensor> tensors{tensor};
      return backend_->allreduce(tensors);
    });
    unstage(tensor, std::as_writable_bytes(values));
  }

  /// A tensor of `bytes` in `kept`, which grows.
  at::Tensor room(at::Tensor& kept, size_t bytes, at::ScalarType type) {
    const auto wanted = static_cast<int64_t>(bytes);
    if (!kept.defined() || kept.numel() < wanted)
      kept = at::empty({wanted}, at::TensorOptions(at::kByte).device(device_));
    return kept.narrow(0, 0, wanted).view(type);
  }
  static at::Tensor outside(std::span<const std::byte> bytes, const at::Tensor& like) {
    return at::from_blob(const_cast<std::byte*>(bytes.data()), like.sizes(), like.options().device(at::kCPU));
  }
  void stage(std::span<const std::byte> bytes, const at::Tensor& tensor) const {
    if (device_.is_cpu())
      std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
    else
      tensor.copy_(outside(bytes, tensor));
  }
  void unstage(const at::Tensor& tensor, std::span<std::byte> bytes) const {
    if (device_.is_cpu())
      std::memcpy(bytes.data(), tensor.const_data_ptr(), bytes.size());
    else
      outside(bytes, tensor).copy_(tensor);
  }
  at::Tensor staged(std::span<const std::byte> bytes, at::Tensor& kept, at::ScalarType type) {
    at::Tensor tensor = room(kept, bytes.size(), type);
    stage(bytes, tensor);
    return tensor;
  }

  /// Starts an operation and waits for its end.
  template <class Start>
  void run(Start start) {
    const Operation operation(*this);
    if (!broken_.empty()) throw GroupBroken(broken_);
    {
      const std::lock_guard lock(completion_->mutex);
      if (completion_->aborted) give_up({}, "aborted");
      completion_->done = false;
    }
    Work work;
    try {
      // c10d's flight recorder is one for all groups of a process, and writes to a map without a lock.
      static std::mutex one_at_a_time;
      const std::lock_guard lock(one_at_a_time);
      work = start();
    } catch (const std::exception& error) { give_up({}, first_line(error.what())); }
    work->getFuture()->addCallback([completion = completion_](c10::ivalue::Future& future) {
      {
        const std::lock_guard lock(completion->mutex);
        completion->done = true;
        if (future.hasError()) completion->error = first_line(future.tryRetrieveErrorMessage());
      }
      completion->changed.notify_all();
    });
    std::unique_lock lock(completion_->mutex);
    completion_->changed.wait_for(lock, deadline_, [&] { return completion_->done || completion_->aborted; });
    if (!completion_->done) {
      const bool aborted = completion_->aborted;
      lock.unlock();
      give_up(work, aborted ? "aborted" : "no end of an operation in time");
    }
    if (completion_->error.empty()) return;
    const std::string error = completion_->error;
    lock.unlock();
    give_up(work, error);
  }

  [[noreturn]] void give_up(const Work& work, const std::string& why) {
    broken_ = why;
    bury({backend_, work, std::exchange(in_, {}), std::exchange(out_, {}), std::exchange(disconnect_, nullptr)});
    throw GroupBroken(why);
  }

  static std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

  Backend backend_;
  at::Device device_;
  std::chrono::milliseconds deadline_;
  std::function<void()> disconnect_;
  std::shared_ptr<Completion> completion_ = std::make_shared<Completion>();
  at::Tensor in_, out_;  ///< bytes, what operations work on
  std::string broken_;   ///< why, once it is
};

}  // namespace

std::unique_ptr<Collective> make_backend_collective(c10::intrusive_ptr<c10d::Backend> backend, at::Device device,
                                                    std::chrono::milliseconds deadline,
                                                    std::function<void()> disconnect) {
  return std::make_unique<BackendCollective>(std::move(backend), device, deadline, std::move(disconnect));
}

}  // namespace myriad
