// What a host's relay carries, beside memcpy and raw libzmq, and how soon new weights are seen by a thousand runners.
//
//   relay    two producers --packed fragments--> HostAgent (this process) --parcels, ipc--> a receiver that decodes
//   them libzmq   the same bytes, one DEALER to one ROUTER over ipc, 1 MiB messages, nothing else weights  a version of
//   5 MB published; 1,000 processes woken one by one, each reads it in place and says when
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "env_runners/shared_weights.hpp"
#include "rl/check.hpp"
#include "rl/wire/packed.hpp"
#include "rl/wire/transport.hpp"
#include "roles/host_agent.hpp"

namespace myriad {
namespace {

constexpr uint32_t kProducers = 2;
constexpr double kSeconds = 2.0;

Time now() { return std::chrono::steady_clock::now().time_since_epoch(); }

template <class F>
int in_child(F&& body) {
  const int pid = ::fork();
  check(pid >= 0, "fork");
  if (pid != 0) return pid;
  body();
  std::_Exit(0);
}

std::string temporary_directory() {
  std::string name = (std::filesystem::temp_directory_path() / "relay-bench-XXXXXX").string();
  check(::mkdtemp(name.data()) != nullptr, "mkdtemp {}", name);
  return name;
}

std::shared_ptr<const FragmentLayout> layout_of(size_t bytes) {
  auto layout = std::make_shared<FragmentLayout>(1, 1);
  layout->add("obs", Rows::step, DType::u8, {static_cast<int>(bytes)});
  return layout;
}

double memcpy_rate(size_t bytes) {
  std::vector<std::byte> from(bytes, std::byte{1}), to(bytes);
  const Time start = now();
  size_t total = 0;
  for (; now() - start < seconds(0.5); total += bytes) {
    std::copy(from.begin(), from.end(), to.begin());
    asm volatile("" : : "r"(to.data()) : "memory");
  }
  return static_cast<double>(total) / to_seconds(now() - start) * 1e-9;
}

/// The receiver's end of both transports: counts payload bytes, tells the total through the pipe when it is stopped.
template <class Count>
int receiver(const std::string& endpoint, int result, Count count) {
  return in_child([&] {
    const SocketContext context;
    Router router(context, endpoint);
    uint64_t bytes = 0;
    Time first{};
    for (;;) {
      wait_readable({&router}, -1, seconds(10));
      while (auto received = router.receive()) {
        if (first == Time{}) first = now();
        const int64_t more = count(router, *received);
        if (more < 0) {
          const double rate = static_cast<double>(bytes) / to_seconds(now() - first) * 1e-9;
          check(::write(result, &rate, sizeof rate) == sizeof rate, "write");
          return;
        }
        bytes += static_cast<uint64_t>(more);
      }
    }
  });
}

double libzmq_rate() {
  const std::string directory = temporary_directory(), endpoint = "ipc://" + directory + "/raw";
  int result[2];
  check(::pipe(result) == 0, "pipe");
  receiver(endpoint, result[1], [](Router&, const Received& received) -> int64_t {
    const size_t size = received.frames[0].view.size();
    return size == 1 ? -1 : static_cast<int64_t>(size);
  });
  {
    const SocketContext context;
    Dealer dealer(context, endpoint, "raw");
    const SharedBytes parcel = SharedBytes::of(std::vector<std::byte>(size_t{1} << 20));
    for (const Time end = now() + seconds(kSeconds); now() < end;)
      if (!dealer.send({parcel})) ::poll(nullptr, 0, 1);
    while (!dealer.send({SharedBytes::of(std::vector<std::byte>(1))})) ::poll(nullptr, 0, 1);
    double rate = 0;
    check(::read(result[0], &rate, sizeof rate) == sizeof rate, "read");
    std::filesystem::remove_all(directory);
    ::wait(nullptr);
    return rate;
  }
}

double relay_rate(size_t bytes) {
  const auto layout = layout_of(bytes);
  int sockets[kProducers][2], result[2];
  std::vector<int> producers;
  check(::pipe(result) == 0, "pipe");
  const std::string directory = temporary_directory(), endpoint = "ipc://" + directory + "/learner";
  for (uint32_t slot = 0; slot < kProducers; ++slot) {
    check(::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets[slot]) == 0, "socketpair");
    producers.push_back(in_child([&] {  // sends whenever it may, as a runner with an infinitely fast simulator
      PackedReader reader(1 << 20);
      uint64_t granted = 0;
      wire::SlotStateT hello;
      hello.slot = slot;
      hello.up = true;
      (void)send_packed(sockets[slot][1], encode(make_message(std::move(hello))));
      auto fragment = std::make_shared<Fragment>(layout);
      for (uint64_t seq = 0;;) {
        pollfd poll{sockets[slot][1], POLLIN, 0};
        if (::poll(&poll, 1, seq < granted ? 0 : -1) > 0 &&
            reader.read(sockets[slot][1], [&](std::span<const std::byte> packed) {
              auto decoded = decode(*unpack({nullptr, packed}));
              granted = std::get<Message>(decoded).as<wire::PermitT>()->granted;
            }) == PackedReader::Outcome::closed)
          return;
        if (seq >= granted) continue;
        fragment->id = {slot, 0, seq++};
        if (!send_packed(sockets[slot][1], encode(fragment_message(fragment, 0, 0)))) return;
      }
    }));
  }
  ParcelReceiver parcels;
  receiver(endpoint, result[1], [&](Router& router, const Received& received) -> int64_t {
    auto decoded = decode(received.frames);
    const auto& message = std::get<Message>(decoded);
    if (message.as<wire::StopT>() != nullptr) return -1;
    if (message.as<wire::ParcelT>() == nullptr) return 0;
    int64_t total = 0;
    for (const Frames& frames : parcels.accept(message)) {
      auto inner = decode(frames);
      for (const SharedBytes& payload : std::get<Message>(inner).payloads)
        total += static_cast<int64_t>(payload.view.size());
    }
    wire::GrantT grant;
    grant.received = parcels.received();
    grant.granted_bytes = (parcels.received() + std::max<uint64_t>(64, (4u << 20) / bytes)) * bytes;
    (void)router.send(received.peer, encode(make_message(std::move(grant))));
    return total;
  });

  const SocketContext context;
  Dealer learner(context, endpoint, "agent-0.0");
  HostAgent::Options options;
  options.run = options.epoch = 0;
  options.slots.num_slots = kProducers;
  options.fragment_bytes = bytes;
  options.by_slot = false;
  HostAgent agent(options);
  const int epoll = ::epoll_create1(0);
  for (uint32_t slot = 0; slot < kProducers; ++slot) {
    ::close(sockets[slot][1]);
    epoll_event event{.events = EPOLLIN, .data = {.u64 = slot}};
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[slot][0], &event);
  }
  std::vector<PackedReader> readers(kProducers, PackedReader(bytes + (1 << 20)));
  const auto step = [&](const HostAgent::Input& input) {
    std::vector<HostAgent::Output> outputs;
    agent.step(input, now(), outputs);
    for (auto& output : outputs) {
      if (auto* send = std::get_if<HostAgent::ToLearner>(&output)) (void)learner.send(encode(send->message));
      if (auto* send = std::get_if<HostAgent::ToRunner>(&output))
        (void)send_packed(sockets[send->slot][0], encode(send->message));
    }
  };
  step(HostAgent::Start{});
  step(HostAgent::FromLearner{weights_message(std::make_shared<Weights>())});
  for (const Time end = now() + seconds(kSeconds); now() < end;) {
    wait_readable({&learner}, epoll, std::chrono::milliseconds(20));
    while (auto received = learner.receive()) {
      auto decoded = decode(received->frames);
      step(HostAgent::FromLearner{std::get<Message>(decoded)});
    }
    epoll_event events[kProducers];
    for (int i = ::epoll_wait(epoll, events, kProducers, 0); i-- > 0;) {
      const auto slot = static_cast<uint32_t>(events[i].data.u64);
      (void)readers[slot].read(sockets[slot][0], [&](std::span<const std::byte> packed) {
        step(HostAgent::FromRunner{slot, 0, packed});
      });
    }
    step(HostAgent::Tick{});
    step(HostAgent::Flush{});
  }
  while (!learner.send(encode(make_message(wire::StopT{})))) ::poll(nullptr, 0, 1);
  double rate = 0;
  check(::read(result[0], &rate, sizeof rate) == sizeof rate, "read");
  for (const int pid : producers) ::kill(pid, SIGKILL);
  for (auto& pair : sockets) ::close(pair[0]);
  ::close(epoll);
  while (::wait(nullptr) > 0) {}
  std::filesystem::remove_all(directory);
  return rate;
}

void weights_latency(size_t bytes, uint32_t runners) {
  const SharedWeightsLayout layout{.num_values = bytes / sizeof(float)};
  SharedMemory region = SharedMemory::create("weights", layout.bytes(), true);
  SharedWeightsWriter writer(layout, region.data());
  Weights weights{1, 0, std::vector<float>(layout.num_values), {}};
  std::vector<int> sockets;
  for (uint32_t i = 0; i < runners; ++i) {
    int ends[2];
    check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
    in_child([&] {
      for (const int fd : sockets) ::close(fd);
      ::close(ends[0]);
      RunnerPage page;
      SharedWeightsReader reader(layout, region.data(), page);
      for (char order; ::read(ends[1], &order, 1) == 1;) {
        const auto view = reader.acquire();
        struct {
          uint64_t version;
          int64_t at;
          float last;
        } seen{view->version, now().count(), view->values.back()};
        reader.release();
        check(::write(ends[1], &seen, sizeof seen) == sizeof seen, "write");
      }
    });
    ::close(ends[1]);
    sockets.push_back(ends[0]);
  }
  std::vector<double> latencies;
  for (uint64_t version = 1; version <= 20; ++version) {
    weights.version = version;
    weights.values.back() = static_cast<float>(version);
    const Time start = now();
    check(writer.publish(weights, [](uint32_t) { return false; }), "publish");
    for (const int fd : sockets) check(::write(fd, "x", 1) == 1, "write");
    for (const int fd : sockets) {
      struct {
        uint64_t version;
        int64_t at;
        float last;
      } seen{};
      check(::read(fd, &seen, sizeof seen) == sizeof seen, "read");
      check(seen.version == version && seen.last == static_cast<float>(version), "a runner saw version {}",
            seen.version);
      latencies.push_back(static_cast<double>(seen.at - start.count()) * 1e-6);
    }
  }
  for (const int fd : sockets) ::close(fd);
  while (::wait(nullptr) > 0) {}
  std::sort(latencies.begin(), latencies.end());
  const auto at = [&](double share) {
    return latencies[static_cast<size_t>(share * static_cast<double>(latencies.size() - 1))];
  };
  std::printf("weights of %.1f MB to %u local runners, ms after publish: p50 %.2f  p99 %.2f  max %.2f\n",
              static_cast<double>(bytes) * 1e-6, runners, at(0.5), at(0.99), latencies.back());
}

}  // namespace
}  // namespace myriad

int main() {
  using namespace myriad;
  std::printf("raw libzmq, ipc, 1 MiB messages: %.2f GB/s\n", libzmq_rate());
  for (const size_t bytes : {size_t{4} << 10, size_t{16} << 10, size_t{64} << 10, size_t{256} << 10, size_t{1} << 20})
    std::printf("fragments of %4zu KiB: relay %.2f GB/s, memcpy %.1f GB/s\n", bytes >> 10, relay_rate(bytes),
                memcpy_rate(bytes));
  weights_latency(5'000'000, 1000);
}
