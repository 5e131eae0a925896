#include "learners/gloo_collective.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <utility>

#include "learners/backend_collective.hpp"

namespace myriad {
namespace {

constexpr std::chrono::milliseconds kSlice(20);

/// The way from Gloo's threads to a Rendezvous that may end before them.
class Link {
 public:
  explicit Link(Rendezvous& rendezvous) : rendezvous_(&rendezvous) {}

  void set(const std::string& key, const std::vector<uint8_t>& value) {
    const std::lock_guard lock(mutex_);
    if (rendezvous_ == nullptr) throw GroupBroken("given up");
    rendezvous_->set(key, value);
  }
  Rendezvous::Value get(const std::string& key, std::chrono::milliseconds patience) {
    const auto end = std::chrono::steady_clock::now() + patience;
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (rendezvous_ == nullptr) throw GroupBroken("given up");
        if (rendezvous_->has(key) || rendezvous_->over()) return rendezvous_->get(key, kSlice);
      }
      if (std::chrono::steady_clock::now() >= end) throw GroupBroken("no '" + key + "' in time");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  bool has(const std::string& key) {
    const std::lock_guard lock(mutex_);
    return rendezvous_ != nullptr && rendezvous_->has(key);
  }
  bool over() {
    const std::lock_guard lock(mutex_);
    return rendezvous_ == nullptr || rendezvous_->over();
  }
  void cut() {
    const std::lock_guard lock(mutex_);
    rendezvous_ = nullptr;
  }

 private:
  std::mutex mutex_;
  Rendezvous* rendezvous_;
};

/// What Gloo needs of a c10d store to connect its members: values that are set once.
class RendezvousStore final : public c10d::Store {
 public:
  RendezvousStore(std::shared_ptr<Link> link, std::chrono::milliseconds patience)
      : c10d::Store(patience), link_(std::move(link)) {}

  c10::intrusive_ptr<c10d::Store> clone() override { return c10::make_intrusive<RendezvousStore>(link_, timeout_); }
  void set(const std::string& key, const std::vector<uint8_t>& value) override { link_->set(key, value); }
  std::vector<uint8_t> get(const std::string& key) override { return link_->get(key, timeout_); }
  bool check(const std::vector<std::string>& keys) override {
    return std::all_of(keys.begin(), keys.end(), [&](const std::string& key) { return link_->has(key); });
  }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override {
    for (const std::string& key : keys) link_->get(key, timeout);
  }
  bool hasExtendedApi() const override { return true; }
  std::vector<std::vector<uint8_t>> multiGet(const std::vector<std::string>& keys) override {
    std::vector<std::vector<uint8_t>> values;
    for (const std::string& key : keys) values.push_back(get(key));
    return values;
  }
  void multiSet(const std::vector<std::string>& keys, const std::vector<std::vector<uint8_t>>& values) override {
    for (size_t i = 0; i < keys.size(); ++i) set(keys[i], values[i]);
  }

  int64_t add(const std::string&, int64_t) override { unsupported("add"); }
  bool deleteKey(const std::string&) override { unsupported("deleteKey"); }
  int64_t getNumKeys() override { unsupported("getNumKeys"); }

 private:
  [[noreturn]] static void unsupported(const char* what) {
    throw GroupBroken(std::string("a rendezvous has no ") + what);
  }
  std::shared_ptr<Link> link_;
};

/// With a way to close the connections under operations that are still running.
class Gloo final : public c10d::ProcessGroupGloo {
 public:
  using ProcessGroupGloo::ProcessGroupGloo;
  void close_connections() {
    for (const auto& context : contexts_) context->closeConnections();
  }
};

/// A group being connected, by a thread of its own: connecting cannot be interrupted, only left.
struct Forming {
  std::mutex mutex;
  std::condition_variable changed;
  c10::intrusive_ptr<Gloo> group;
  std::string error;
  bool done = false, left = false;
};

void form(const std::shared_ptr<Forming>& forming, const std::shared_ptr<Link>& link, int rank, int size,
          const std::string& host, std::chrono::milliseconds deadline) {
  c10::intrusive_ptr<Gloo> group;
  std::string error;
  try {
    auto options = c10d::ProcessGroupGloo::Options::create(deadline);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
    options->threads = 1;
    group = c10::make_intrusive<Gloo>(c10::make_intrusive<RendezvousStore>(link, deadline), rank, size, options);
  } catch (const std::exception& e) { error = e.what(); }
  const std::lock_guard lock(forming->mutex);
  forming->error = error.substr(0, error.find('\n'));
  forming->done = true;
  if (!forming->left) forming->group = std::move(group);
  forming->changed.notify_all();
}

}  // namespace

std::unique_ptr<Collective> make_gloo_collective(Rendezvous& rendezvous, uint32_t rank, uint32_t size,
                                                 const std::string& host, std::chrono::milliseconds deadline) {
  const auto link = std::make_shared<Link>(rendezvous);
  const auto forming = std::make_shared<Forming>();
  std::thread(form, forming, link, static_cast<int>(rank), static_cast<int>(size), host, deadline).detach();
  const auto end = std::chrono::steady_clock::now() + deadline;
  std::unique_lock lock(forming->mutex);
  while (!forming->done && !link->over() && std::chrono::steady_clock::now() < end)
    forming->changed.wait_for(lock, kSlice);
  link->cut();
  if (!forming->group) {
    forming->left = true;
    throw GroupBroken(forming->done ? "the group did not form: " + forming->error : "the group did not form in time");
  }
  auto group = std::exchange(forming->group, nullptr);
  return make_backend_collective(group, at::kCPU, deadline, [group] { group->close_connections(); });
}

}  // namespace myriad
