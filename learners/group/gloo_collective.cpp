#include "learners/group/gloo_collective.hpp"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <utility>

#include "learners/group/backend_collective.hpp"
#include "learners/group/rendezvous_store.hpp"

namespace myriad {
namespace {

constexpr std::chrono::milliseconds kSlice(20);

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

void form(const std::shared_ptr<Forming>& forming, const std::shared_ptr<RendezvousLink>& link, int rank, int size,
          const std::string& host, std::chrono::milliseconds deadline) {
  c10::intrusive_ptr<Gloo> group;
  std::string error;
  try {
    auto options = c10d::ProcessGroupGloo::Options::create(deadline);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
    options->threads = 1;
    group = c10::make_intrusive<Gloo>(make_rendezvous_store(link, deadline), rank, size, options);
  } catch (const std::exception& e) { error = e.what(); }
  const std::lock_guard lock(forming->mutex);
  forming->error = error.substr(0, error.find('\n'));
  forming->done = true;
  if (!forming->left) forming->group = std::move(group);
  forming->changed.notify_all();
}

}  // namespace

std::unique_ptr<Collective> make_gloo_collective(Rendezvous& rendezvous, uint32_t rank, uint32_t size,
                                                 const std::string& host, std::chrono::milliseconds deadline,
                                                 std::optional<size_t> overlap_floats) {
  const auto link = std::make_shared<RendezvousLink>(rendezvous);
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
  return make_backend_collective(
      group, at::kCPU, deadline, [group] { group->close_connections(); },
      overlap_floats.value_or(host.starts_with("127.") ? 0 : kOverlapFloats));
}

}  // namespace myriad
