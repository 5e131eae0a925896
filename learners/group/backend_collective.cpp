#include "learners/group/backend_collective.hpp"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "learners/group/counted_collective.hpp"

namespace myriad {
namespace {

using Work = c10::intrusive_ptr<c10d::Work>;
using Backend = c10::intrusive_ptr<c10d::Backend>;

/// Whether operations have ended, for the thread that waits; outlives the collective where they do.
struct Completion {
  std::mutex mutex;
  std::condition_variable changed;
  bool aborted = false;
  int64_t running = 0;
  std::string error;
};

/// What is left of a broken group: operations may still be running on the tensors, and to destroy a backend is to
/// wait for its operations. So a thread of their own closes the connections, waits, and takes them away.
struct Remains {
  Backend backend;
  std::vector<Work> works;
  std::vector<at::Tensor> tensors;
  std::function<void()> disconnect;
};

void bury(Remains remains) {
  std::thread([remains = std::move(remains)] {
    try {
      if (remains.disconnect) remains.disconnect();
    } catch (const std::exception&) {}  // it is over either way
    for (const Work& work : remains.works) {
      try {
        work->wait();
      } catch (const std::exception&) {}
    }
  }).detach();
}

class BackendCollective final : public CountedCollective {
 public:
  BackendCollective(Backend backend, at::Device device, std::chrono::milliseconds deadline,
                    std::function<void()> disconnect, size_t overlap_floats)
      : backend_(std::move(backend)),
        device_(device),
        deadline_(deadline),
        disconnect_(std::move(disconnect)),
        overlap_floats_(overlap_floats) {}

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

  size_t overlap_floats() const override { return overlap_floats_; }
  void begin_all_reduce(std::span<float> values) override {
    const Operation operation(*this);
    if (begun_.size() == rooms_.size()) rooms_.emplace_back();
    const at::Tensor tensor = staged(std::as_bytes(values), rooms_[begun_.size()], at::kFloat);
    begun_.push_back({values, tensor});
    start([&] { return sum_of(tensor); });
  }
  void finish() override {
    const Operation operation(*this);
    await();
    for (const auto& [values, tensor] : std::exchange(begun_, {})) unstage(tensor, std::as_writable_bytes(values));
  }

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
    run([&] { return sum_of(tensor); });
    unstage(tensor, std::as_writable_bytes(values));
  }

  Work sum_of(const at::Tensor& tensor) {
    std::vector<at::Tensor> tensors{tensor};
    return backend_->allreduce(tensors);
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
  template <class Begin>
  void run(Begin begin) {
    const Operation operation(*this);
    start(begin);
    await();
  }

  template <class Begin>
  void start(Begin begin) {
    if (!broken_.empty()) throw GroupBroken(broken_);
    bool aborted;
    {
      const std::lock_guard lock(completion_->mutex);
      aborted = completion_->aborted;
      ++completion_->running;
    }
    if (aborted) give_up("aborted");
    try {
      // c10d's flight recorder is one for all groups of a process, and writes to a map without a lock.
      static std::mutex one_at_a_time;
      const std::lock_guard lock(one_at_a_time);
      works_.push_back(begin());
    } catch (const std::exception& error) { give_up(first_line(error.what())); }
    works_.back()->getFuture()->addCallback([completion = completion_](c10::ivalue::Future& future) {
      {
        const std::lock_guard lock(completion->mutex);
        --completion->running;
        if (future.hasError()) completion->error = first_line(future.tryRetrieveErrorMessage());
      }
      completion->changed.notify_all();
    });
  }

  /// Waits for the end of all that was started.
  void await() {
    if (!broken_.empty()) throw GroupBroken(broken_);
    std::string why;
    {
      std::unique_lock lock(completion_->mutex);
      const auto over = [&] { return completion_->running == 0 || !completion_->error.empty(); };
      completion_->changed.wait_for(lock, deadline_, [&] { return over() || completion_->aborted; });
      why = completion_->error;
      if (!over()) why = completion_->aborted ? "aborted" : "no end of an operation in time";
    }
    if (!why.empty()) give_up(why);
    works_.clear();
  }

  [[noreturn]] void give_up(const std::string& why) {
    broken_ = why;
    std::vector<at::Tensor> tensors = std::exchange(rooms_, {});
    tensors.push_back(std::exchange(in_, {}));
    tensors.push_back(std::exchange(out_, {}));
    begun_.clear();
    bury({backend_, std::exchange(works_, {}), std::move(tensors), std::exchange(disconnect_, nullptr)});
    throw GroupBroken(why);
  }

  static std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

  Backend backend_;
  at::Device device_;
  std::chrono::milliseconds deadline_;
  std::function<void()> disconnect_;
  size_t overlap_floats_;
  std::shared_ptr<Completion> completion_ = std::make_shared<Completion>();
  at::Tensor in_, out_;            ///< bytes, what operations work on
  std::vector<at::Tensor> rooms_;  ///< the same, of sums that were begun
  struct Begun {
    std::span<float> values;
    at::Tensor tensor;
  };
  std::vector<Begun> begun_;
  std::vector<Work> works_;
  std::string broken_;  ///< why, once it is
};

}  // namespace

std::unique_ptr<Collective> make_backend_collective(c10::intrusive_ptr<c10d::Backend> backend, at::Device device,
                                                    std::chrono::milliseconds deadline,
                                                    std::function<void()> disconnect, size_t overlap_floats) {
  return std::make_unique<BackendCollective>(std::move(backend), device, deadline, std::move(disconnect),
                                             overlap_floats);
}

}  // namespace myriad
