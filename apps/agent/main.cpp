// myriad-host-agent: one host's agent. zygote -> hello -> welcome (config, slots) -> runners -> relay until stopped.
//
// One thread beside ZeroMQ's; epoll over the runners' sockets. roles/host_agent makes the decisions.
#include <malloc.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>

#include "apps/child.hpp"
#include "env_runners/client_door.hpp"
#include "env_runners/env_runner.hpp"
#include "env_runners/memory_watch.hpp"
#include "env_runners/runner_limits.hpp"
#include "env_runners/zygote.hpp"
#include "rl/machine.hpp"
#include "rl/private_folder.hpp"
#include "rl/processes.hpp"
#include "rl/signals.hpp"
#include "rl/simulator/simulator.hpp"
#include "rl/system.hpp"
#include "rl/wire/packed.hpp"
#include "roles/host_agent.hpp"
#include "roles/weights_publisher.hpp"

namespace myriad {
namespace {

constexpr int kPreempted = 75;            // sysexits' EX_TEMPFAIL: schedulers start such a job again
constexpr uint32_t kSpawnsUnderWay = 32;  // more, and agent and zygote could fill each other's sockets
constexpr Time kLookEvery = std::chrono::milliseconds(250);  // at the runners' progress and the host's memory
constexpr Time kSigns = std::chrono::seconds(1);             // of life to the driver while they are loaded
constexpr Time kWords = std::chrono::seconds(10);            // between two events about runners that start
constexpr Time kRunnersEnd = simulator::kCloseGrace + std::chrono::seconds(2);  // of runners with simulators
constexpr Time kParentDeadline = std::chrono::seconds(5);  // then weights come from the learner again
constexpr int64_t kElsewhere = INT64_MAX;                  // Join: the weights come from another agent
constexpr size_t kMessageSlack = size_t{1} << 20;          // of a runner's message beyond its fragment

class AgentShell {
 public:
  AgentShell(const ChildArguments& arguments, const SocketContext& context, ControlLink& control, Zygote& zygote,
             const Message& welcome)
      : context_(context),
        control_(control),
        zygote_(zygote),
        clock_(make_system_clock()),
        run_(arguments.number("--run")),
        epoch_(welcome.epoch),
        welcome_(*welcome.as<wire::AgentWelcomeT>()),
        ready_(load_simulators()),
        region_(SharedMemory::create("myriad-weights", ready_.weights.bytes(), true)),
        writer_(ready_.weights, region_.data()),
        core_(options()),
        connections_(welcome_.num_slots),
        watch_({.reserve_share = config_.hosts.memory_reserve,
                .release_share = std::max(config_.hosts.memory_reserve * 1.6, config_.hosts.memory_reserve + 0.01)}),
        epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    control_.set_epoch(epoch_);
    connect_learner(welcome_.learner_endpoint);
    zygote_.share_weights(region_);
    connect_parent(welcome_.weights_endpoint);
    serve_weights(arguments, context);
    if (!welcome.payloads.empty()) keep_states(welcome.payloads[0]);
    if (ready_.text[0] != '\0') say("limits", ready_.text);
    say("sandbox", ready_.sandbox);
    open_door();
    watch_fd(zygote_.fd(), kZygote);
    sigset_t signals;
    ::sigemptyset(&signals);
    for (const int signal : kEndingSignals) ::sigaddset(&signals, signal);
    signals_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    watch_fd(signals_, kSignals);
  }

  int run() {
    parent_heard_ = clock_->now();
    step(HostAgent::Start{});
    while (!done_) {
      const Time now = clock_->now();
      const Time timeout = std::min(core_.next_timer(), next_look_) - now;
      if (parent_ && server_)
        wait_readable({&*data_, &control_.socket(), &*parent_, &*server_}, epoll_, timeout);
      else if (server_)
        wait_readable({&*data_, &control_.socket(), &*server_}, epoll_, timeout);
      else
        wait_readable({&*data_, &control_.socket()}, epoll_, timeout);
      receive();
      poll_descriptors();
      spawn_some();
      if (clock_->now() >= next_look_) look();
      step(HostAgent::Tick{});
      step(HostAgent::Flush{});
    }
    if (ready_.isolated) end_runners();
    return exit_;
  }

 private:
  static constexpr uint64_t kZygote = UINT64_MAX, kSignals = UINT64_MAX - 1, kDoor = UINT64_MAX - 2;

  struct Connection {
    Connection(int socket, SharedMemory own_page, uint32_t which, size_t max_bytes)
        : fd(socket), page(std::move(own_page)), incarnation(which), reader(max_bytes) {}
    ~Connection() { ::close(fd); }
    RunnerPage& shared() { return *reinterpret_cast<RunnerPage*>(page.data()); }
    int fd;
    SharedMemory page;
    uint32_t incarnation;
    PackedReader reader;
    std::vector<std::byte> unsent;
    bool waits_for_room = false;  // in its socket
    int pid = 0;
    uint64_t progress = 0;
  };

  ZygoteReport load_simulators() {
    zygote_.set_up(run_, epoch_, welcome_.agent, welcome_.config);
    config_ = load_config(welcome_.config, "config");
    const Time start_timeout = seconds(config_.env_runners.start_timeout_s);
    Time next_sign{};
    for (const Time give_up = clock_->now() + start_timeout; clock_->now() < give_up;) {
      wait_readable({&control_.socket()}, zygote_.fd(), kLookEvery);
      if (asked_to_end()) fail(Exit::interrupted, "stopped", "told to stop before the simulators were loaded");
      while (const auto message = control_.receive())
        if (message->as<wire::StopT>() != nullptr)
          fail(Exit::interrupted, "stopped", "the run ended while the simulators were loaded");
      if (clock_->now() >= next_sign) {
        next_sign = clock_->now() + kSigns;
        wire::AgentStatusT alive;
        alive.agent = welcome_.agent;
        alive.incarnation = welcome_.incarnation;
        alive.weights_version = -1;
        control_.set_epoch(epoch_);
        control_.send(std::move(alive));
      }
      const auto report = zygote_.receive();
      if (!report) continue;
      if (report->kind == ZygoteReport::Kind::failed)
        throw Error(static_cast<Exit>(report->exit), report->code, report->text);
      return *report;
    }
    fail(Exit::resource, "zygote-hangs",
         "the simulators are not loaded after {:g} s; env_runners.start_timeout_s is how long that may take",
         to_seconds(start_timeout));
  }

  /// They end by themselves where their connection closes: first their simulators do, each with a grace.
  void end_runners() {
    for (const auto& c : connections_)
      if (c) ::shutdown(c->fd, SHUT_RDWR);
    const auto any = [this] { return std::ranges::any_of(connections_, [](const auto& c) { return c != nullptr; }); };
    try {
      for (const Time until = clock_->now() + kRunnersEnd; any() && clock_->now() < until;) {
        wait_readable({}, zygote_.fd(), kLookEvery);
        while (const auto report = zygote_.receive())
          if (report->kind == ZygoteReport::Kind::exited) connections_[report->slot - welcome_.first_slot].reset();
      }
    } catch (const Error&) {}  // the zygote is gone, and its runners
  }

  /// Listens for clients, where they are the environments.
  void open_door() {
    const std::string file = simulator::clients_file_of(config_.environment.env);
    if (file.empty()) return;
    door_.emplace(simulator::read_clients_file(file), welcome_.agent,
                  [this](const std::string& text) { say("clients", text); });
    watch_fd(door_->fd(), kDoor);
    say("clients", fmt::format("host agent {} waits for clients at {}", welcome_.agent, door_->address()));
  }

  HostAgent::Options options() const {
    HostAgent::Options options;
    options.run = run_;
    options.epoch = epoch_;
    options.agent = welcome_.agent;
    options.incarnation = welcome_.incarnation;
    options.first_slot = welcome_.first_slot;
    options.spec_hash = ready_.spec_hash;
    options.fragment_hash = ready_.fragment_hash;
    options.num_inference_parameters = ready_.weights.num_values;
    options.filter_size = ready_.weights.num_filter;
    options.published_size = ready_.weights.num_published;
    options.fragment_bytes = ready_.fragment_bytes;
    options.by_slot = !config_.async();
    options.slots.num_slots = welcome_.num_slots;
    options.slots.first_incarnation = first_incarnation(welcome_.incarnation);
    options.slots.backoff = seconds(config_.fault_tolerance.restart_backoff_s);
    options.slots.backoff_max = seconds(config_.fault_tolerance.restart_backoff_max_s);
    options.slots.max_failures_in_a_row = static_cast<uint32_t>(config_.fault_tolerance.max_failures_in_a_row);
    options.slots.step_timeout = seconds(config_.env_runners.step_timeout_s);
    options.slots.start_timeout = seconds(config_.env_runners.start_timeout_s);
    options.seed = static_cast<uint64_t>(config_.seed);
    return options;
  }

  /// Serves the weights to other agents: beside the driver's socket, or at --relay.
  void serve_weights(const ChildArguments& arguments, const SocketContext& context) {
    const std::string& control = arguments.text("--control");
    std::string endpoint = arguments.has("--relay") ? arguments.text("--relay") : "";
    if (endpoint.empty() && control.starts_with("ipc://"))
      endpoint =
          fmt::format("{}/weights-{}.{}", control.substr(0, control.rfind('/')), welcome_.agent, welcome_.incarnation);
    if (endpoint.empty()) return;
    server_.emplace(context, endpoint);
    weights_endpoint_ = server_->endpoint();
  }

  void keep_states(const SharedBytes& packed) {
    SharedBytes rest = packed;
    while (!rest.view.empty()) {
      const auto size = packed_size(rest.view, rest.view.size());
      check(size && *size > 0, "the runner states of the welcome are damaged");
      const auto frames = unpack({rest.owner, rest.view.first(*size)});
      auto decoded = decode(*frames);
      const auto* message = std::get_if<Message>(&decoded);
      const auto* state = message == nullptr ? nullptr : message->as<wire::RunnerStateT>();
      check(state != nullptr && message->payloads.size() == 1, "a runner state of the welcome is damaged");
      states_[state->slot] = message->payloads[0];
      rest.view = rest.view.subspan(*size);
    }
  }

  void watch_fd(int fd, uint64_t tag, uint32_t events = EPOLLIN, int operation = EPOLL_CTL_ADD) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = tag;
    ::epoll_ctl(epoll_, operation, fd, &event);
  }

  void say(const std::string& kind, const std::string& text) {
    wire::EventT event;
    event.kind = kind;
    event.text = text;
    control_.send(std::move(event));
  }

  void connect_learner(const std::string& endpoint) {
    data_.reset();  // first: its routing id is to be free
    data_.emplace(context_, endpoint, fmt::format("agent-{}.{}", welcome_.agent, welcome_.incarnation));
    learner_endpoint_ = endpoint;
    learner_heard_ = false;
  }

  void connect_parent(const std::string& endpoint) {
    parent_.reset();
    if (!endpoint.empty())
      parent_.emplace(context_, endpoint, fmt::format("agent-{}.{}", welcome_.agent, welcome_.incarnation));
    parent_endpoint_ = endpoint;
  }

  /// The agent's learner is another process, or begins a new epoch.
  void follow(uint64_t epoch, const wire::AgentMoveT& move) {
    if (move.agent != welcome_.agent || move.incarnation != welcome_.incarnation || epoch <= epoch_) return;
    epoch_ = epoch;
    control_.set_epoch(epoch);
    if (move.learner_endpoint != learner_endpoint_) connect_learner(move.learner_endpoint);
    if (move.weights_endpoint != parent_endpoint_) connect_parent(move.weights_endpoint);
    step(HostAgent::Moved{epoch});
  }

  Connection* connection(uint32_t slot) { return connections_[slot - welcome_.first_slot].get(); }

  void step(const HostAgent::Input& input) {
    std::vector<HostAgent::Output> outputs;
    core_.step(input, clock_->now(), outputs);
    for (HostAgent::Output& output : outputs) apply(output);
  }

  void apply(HostAgent::Output& output) {
    if (const auto* spawn = std::get_if<HostAgent::Spawn>(&output)) {
      to_spawn_.push_back(*spawn);
    } else if (const auto* kill = std::get_if<HostAgent::Kill>(&output)) {
      if (const Connection* c = connection(kill->slot);
          c != nullptr && c->incarnation == kill->incarnation && c->pid > 0)
        ::kill(c->pid, kill->signal);
    } else if (const auto* send = std::get_if<HostAgent::ToRunner>(&output)) {
      send_runner(send->slot, send->message);
    } else if (auto* send = std::get_if<HostAgent::ToLearner>(&output)) {
      if (auto* join = send->message.body.AsJoin(); join != nullptr && parent_) {
        (void)parent_->send(encode(send->message));
        if (clock_->now() - parent_heard_ < kParentDeadline) join->weights_version = kElsewhere;
      }
      (void)data_->send(encode(send->message));  // parcels and joins are repeated
    } else if (auto* send = std::get_if<HostAgent::ToDriver>(&output)) {
      if (auto* status = send->message.body.AsAgentStatus()) {
        status->rss_bytes = resident_bytes(::getpid());
        describe_weights(*status);
        status->weights_endpoint = weights_endpoint_;
      }
      control_.send_message(std::move(send->message));
    } else if (const auto* install = std::get_if<HostAgent::Install>(&output)) {
      pending_ = install->weights;
      publish();
    } else if (const auto* refused = std::get_if<HostAgent::Refused>(&output)) {
      if (refused->silent && !learner_heard_)
        fail(Exit::environment, "learner-unreachable",
             "no message came from the learner at {}: set network.bind of the run to an address of its host that this "
             "host reaches, and open its ports, which are network.port and one more for each learner",
             learner_endpoint_);
      fail(Exit::internal, "refused", "the learner does not take this agent: {}", refused->reason);
    } else {
      done_ = true;
      exit_ = kPreempted;
    }
  }

  std::vector<uint32_t> pinned_buffers() {
    std::vector<uint32_t> buffers;
    for (const uint32_t slot : core_.sampling())
      if (Connection* c = connection(slot)) {
        const uint32_t pinned = c->shared().pinned.load(std::memory_order_seq_cst);
        if (pinned >= 1 && pinned <= SharedWeightsLayout::kBuffers) buffers.push_back(pinned - 1);
      }
    return buffers;
  }

  void describe_weights(wire::AgentStatusT& status) {
    status.oldest_version = status.weights_version;
    for (const uint32_t buffer : pinned_buffers())
      status.oldest_version = std::min(status.oldest_version, static_cast<int64_t>(writer_.version_in(buffer)));
    if (latencies_ms_.empty()) return;
    std::sort(latencies_ms_.begin(), latencies_ms_.end());
    const auto at = [&](double share) {
      return latencies_ms_[static_cast<size_t>(share * static_cast<double>(latencies_ms_.size() - 1))];
    };
    status.weights_latency_p50_ms = at(0.5);
    status.weights_latency_p99_ms = at(0.99);
    status.weights_latency_max_ms = latencies_ms_.back();
    latencies_ms_.clear();
  }

  void from_learner(Message message) {
    const auto* header = message.as<wire::WeightsHeaderT>();
    const WeightsPtr before = core_.weights();
    if (header != nullptr && (before == nullptr || header->version > before->version))
      published_ns_ = header->published_ns;  // by the learner: agents on the way pass it on
    step(HostAgent::FromLearner{std::move(message)});
    if (core_.weights() != before && published_ns_ > 0)
      latencies_ms_.push_back(static_cast<float>(static_cast<double>(clock_->now().count()) * 1e-6 -
                                                 static_cast<double>(published_ns_) * 1e-6));
  }

  /// The newest weights into shared memory; later, if slow runners pin every buffer.
  void publish() {
    if (pending_ == nullptr) return;
    uint32_t pins = 0;
    for (const uint32_t buffer : pinned_buffers()) pins |= 1u << buffer;
    if (!writer_.publish(*pending_, [pins](uint32_t buffer) { return (pins >> buffer & 1) != 0; })) return;
    step(HostAgent::Installed{pending_->version});
    if (server_) {
      std::vector<WeightsPublisher::Send> sends;
      publisher_.step(WeightsPublisher::Publish{pending_, clock_->now()}, sends);
      serve(sends);
    }
    pending_ = nullptr;
  }

  void serve(const std::vector<WeightsPublisher::Send>& sends) {
    for (const auto& send : sends) {
      Message message = weights_message(send.weights);
      message.run = run_;
      message.epoch = epoch_;
      message.body.AsWeightsHeader()->published_ns = published_ns_;
      (void)server_->send(send.peer, encode(message));
    }
  }

  void receive() {
    while (auto message = control_.receive()) {
      if (const auto* stop = message->as<wire::StopT>()) {
        if (preempted_ && stop->next_run != 0)
          exit_ = kPreempted;  // it was told to leave, so it does not join the next run
        step(HostAgent::StopAll{});
        done_ = true;
      } else if (const auto* move = message->as<wire::AgentMoveT>()) {
        follow(message->epoch, *move);
      } else if (const auto* again = message->as<wire::AgentWelcomeT>()) {
        wire::AgentMoveT move;  // a repeated welcome, in another epoch
        move.agent = again->agent;
        move.incarnation = again->incarnation;
        move.learner_endpoint = again->learner_endpoint;
        move.weights_endpoint = again->weights_endpoint;
        follow(message->epoch, move);
      }
    }
    while (auto received = data_->receive()) {
      auto decoded = decode(received->frames);
      learner_heard_ = true;
      if (auto* message = std::get_if<Message>(&decoded)) from_learner(std::move(*message));
    }
    while (auto received = parent_ ? parent_->receive() : std::nullopt) {
      auto decoded = decode(received->frames);
      auto* message = std::get_if<Message>(&decoded);
      if (message == nullptr || message->run != run_ || message->epoch != epoch_) continue;
      parent_heard_ = clock_->now();
      if (message->as<wire::WeightsHeaderT>() != nullptr) from_learner(std::move(*message));
    }
    while (auto received = server_ ? server_->receive() : std::nullopt) {
      auto decoded = decode(received->frames);
      const auto* message = std::get_if<Message>(&decoded);
      const auto* join = message == nullptr ? nullptr : message->as<wire::JoinT>();
      if (join == nullptr || message->run != run_ || message->epoch != epoch_) continue;
      std::vector<WeightsPublisher::Send> sends;
      publisher_.step(WeightsPublisher::PeerHas{received->peer, join->weights_version, clock_->now()}, sends);
      serve(sends);
      Message alive = make_message(wire::GrantT{});  // a sign of life when there is nothing else to send
      alive.run = run_;
      alive.epoch = epoch_;
      (void)server_->send(received->peer, encode(alive));
    }
  }

  void poll_descriptors() {
    std::array<epoll_event, 256> events;
    const int count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 0);
    for (int i = 0; i < count; ++i) {
      const uint64_t tag = events[static_cast<size_t>(i)].data.u64;
      if (tag == kZygote) {
        while (const auto report = zygote_.receive()) heard(*report);
      } else if (tag == kDoor) {
        door_->step(clock_->now());
      } else if (tag == kSignals) {
        signalfd_siginfo info;
        while (::read(signals_, &info, sizeof info) == sizeof info) {
          preempted_ = true;
          step(HostAgent::Drain{});
        }
      } else {
        const auto slot = static_cast<uint32_t>(tag);
        if (connection(slot) == nullptr) continue;
        if ((events[static_cast<size_t>(i)].events & EPOLLOUT) != 0) send_rest(*connection(slot), slot);
        read_runner(slot);
      }
    }
  }

  void read_runner(uint32_t slot) {
    Connection& c = *connection(slot);
    const auto outcome = c.reader.read(c.fd, [&](std::span<const std::byte> packed) {
      step(HostAgent::FromRunner{slot, c.incarnation, packed});
    });
    if (outcome == PackedReader::Outcome::blocked) return;
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, c.fd, nullptr);  // its end is reported by the zygote
    if (c.pid > 0) ::kill(c.pid, SIGKILL);
  }

  void send_runner(uint32_t slot, const Message& message) {
    Connection* c = connection(slot);
    if (c == nullptr) return;
    pack(encode(message), c->unsent);
    send_rest(*c, slot);
  }

  void send_rest(Connection& c, uint32_t slot) {
    const ssize_t sent =
        c.unsent.empty() ? 0 : ::send(c.fd, c.unsent.data(), c.unsent.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) c.unsent.erase(c.unsent.begin(), c.unsent.begin() + sent);
    if (c.unsent.empty()) std::vector<std::byte>().swap(c.unsent);  // memory of thousands of connections
    if (c.waits_for_room == !c.unsent.empty()) return;
    c.waits_for_room = !c.unsent.empty();
    watch_fd(c.fd, slot, c.waits_for_room ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
  }

  void spawn_some() {
    for (; spawning_ < kSpawnsUnderWay && !to_spawn_.empty(); to_spawn_.pop_front()) {
      const HostAgent::Spawn next = to_spawn_.front();
      int ends[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        step(HostAgent::SpawnFailed{next.slot, next.incarnation, fmt::format("socketpair: {}", std::strerror(errno))});
        continue;
      }
      auto c = std::make_unique<Connection>(ends[0], SharedMemory::create("myriad-runner", sizeof(RunnerPage), false),
                                            next.incarnation, ready_.fragment_bytes + kMessageSlack);
      zygote_.spawn(next.slot, next.incarnation, ends[1], c->page.fd(), door_ ? door_->add_runner(next.slot) : -1);
      c->page.close_fd();
      watch_fd(c->fd, next.slot);
      connections_[next.slot - welcome_.first_slot] = std::move(c);
      ++spawning_;
    }
  }

  void heard(const ZygoteReport& report) {
    Connection* c = connection(report.slot);
    if (report.kind == ZygoteReport::Kind::spawned) {
      --spawning_;
      if (c == nullptr || c->incarnation != report.incarnation) return;
      if (report.pid < 0) {
        connections_[report.slot - welcome_.first_slot].reset();
        step(HostAgent::SpawnFailed{report.slot, report.incarnation,
                                    fmt::format("cannot start a process: {}", std::strerror(-report.pid))});
        return;
      }
      if (report.text[0] != '\0') say("limits", fmt::format("runner {}: {}", report.slot, report.text));
      c->pid = report.pid;
      wire::RunnerWelcomeT hello;
      hello.slot = report.slot;
      hello.incarnation = report.incarnation;
      // Only the first process of a slot continues the saved environments: a later one would repeat what was trained
      // on.
      const auto state = states_.extract(report.slot);
      Message message =
          make_message(std::move(hello), {!state.empty() && report.incarnation == 0 ? state.mapped() : SharedBytes{}});
      message.run = run_;
      message.epoch = epoch_;
      send_runner(report.slot, message);
    } else if (report.kind == ZygoteReport::Kind::exited) {
      if (c == nullptr || c->incarnation != report.incarnation) return;
      read_runner(report.slot);  // its last messages come before its end
      c->pid = 0;
      connections_[report.slot - welcome_.first_slot].reset();
      watch_.gone(report.slot);
      if (door_) door_->remove_runner(report.slot);
      step(HostAgent::RunnerExited{report.slot, report.incarnation, exit_cause(report.status)});
    }
  }

  void look() {
    next_look_ = clock_->now() + kLookEvery;
    std::vector<HostAgent::Progress> moved;
    const auto look_at = [&](uint32_t slot) {
      Connection* c = connection(slot);
      if (c == nullptr) return;
      const uint64_t progress = c->shared().progress.load(std::memory_order_acquire);
      if (std::exchange(c->progress, progress) != progress)
        moved.push_back({slot, c->incarnation, c->shared().starts.load(std::memory_order_relaxed) != 0});
    };
    for (const uint32_t slot : core_.sampling()) look_at(slot);
    for (uint32_t slot = welcome_.first_slot; slot < welcome_.first_slot + welcome_.num_slots; ++slot)
      if (core_.starting(slot)) look_at(slot);
    for (const auto& progress : moved) step(progress);
    if (ready_.isolated) tell_of_starts();
    if (door_) door_->step(clock_->now());
    publish();
    const HostMemory memory = read_host_memory();
    std::vector<uint32_t> running;
    if (static_cast<double>(memory.available) < 0.3 * static_cast<double>(memory.total))
      for (uint32_t slot = welcome_.first_slot; slot < welcome_.first_slot + welcome_.num_slots; ++slot)
        if (connection(slot) != nullptr && connection(slot)->pid > 0) running.push_back(slot);
    const auto rss = [this](uint32_t slot) { return resident_bytes(connection(slot)->pid); };
    if (const auto largest = watch_.step(clock_->now(), memory.available, memory.total, rss, running)) {
      say("memory",
          fmt::format("{:.0f} MiB of {:.0f} MiB are left on this host: runner {}, with {:.0f} MiB the largest, "
                      "is stopped",
                      static_cast<double>(memory.available) / (1 << 20), static_cast<double>(memory.total) / (1 << 20),
                      *largest, static_cast<double>(rss(*largest)) / (1 << 20)));
      ::kill(connection(*largest)->pid, SIGKILL);
    }
  }

  /// Simulators that take long to make their environments: how far one of them is.
  void tell_of_starts() {
    const auto all = static_cast<uint32_t>(config_.env_runners.num_envs_per_env_runner);
    std::optional<uint32_t> first;
    uint32_t count = 0, made_by_first = 0;
    for (const uint32_t slot : core_.sampling()) {
      Connection* c = connection(slot);
      const uint32_t made = c == nullptr ? 0 : c->shared().made.load(std::memory_order_relaxed);
      if (made == 0 || made >= all) continue;
      if (count++ == 0) first = slot, made_by_first = made;
    }
    if (!first) {
      next_word_ = {};
    } else if (next_word_ == Time{}) {
      next_word_ = clock_->now() + kWords;
    } else if (clock_->now() >= next_word_) {
      next_word_ = clock_->now() + kWords;
      say("starting", fmt::format("runner {} has made {} of {} environments{}", *first, made_by_first, all,
                                  count > 1 ? fmt::format("; {} more runners make theirs", count - 1) : ""));
    }
  }

  const SocketContext& context_;
  ControlLink& control_;
  Zygote& zygote_;
  std::unique_ptr<Clock> clock_;
  uint64_t run_, epoch_;
  wire::AgentWelcomeT welcome_;
  Config config_;
  ZygoteReport ready_;
  SharedMemory region_;
  SharedWeightsWriter writer_;
  std::optional<Dealer> data_;  // to its learner
  std::string learner_endpoint_, parent_endpoint_;
  std::optional<Dealer> parent_;
  std::optional<Router> server_;
  std::string weights_endpoint_;
  WeightsPublisher publisher_;
  HostAgent core_;
  std::vector<std::unique_ptr<Connection>> connections_;  // by slot - first_slot
  std::map<uint32_t, SharedBytes> states_;                // to resume from, by slot
  MemoryWatch watch_;
  std::optional<ClientDoor> door_;
  std::deque<HostAgent::Spawn> to_spawn_;
  uint32_t spawning_ = 0;
  WeightsPtr pending_;
  uint64_t published_ns_ = 0;
  std::vector<float> latencies_ms_;  // of weights, since the last status
  Time next_look_{}, parent_heard_{}, next_word_{};
  int epoll_, signals_ = -1;
  bool done_ = false, preempted_ = false, learner_heard_ = false;
  int exit_ = 0;
};

/// An agent from outside has no number before its welcome.
std::string routing_id(const ChildArguments& arguments) {
  const uint64_t agent = arguments.number("--agent");
  return agent == UINT32_MAX ? fmt::format("join-{:08x}", std::random_device{}())
                             : fmt::format("agent-{}.{}", agent, arguments.number("--incarnation"));
}

/// `agent` becomes its number in the run.
int body(const ChildArguments& arguments, const SocketContext& context, ControlLink& control, Zygote& zygote,
         std::optional<uint32_t>& agent) {
  wire::AgentHelloT hello;
  hello.agent = static_cast<uint32_t>(arguments.number("--agent"));
  hello.incarnation = static_cast<uint32_t>(arguments.number("--incarnation"));
  hello.pid = static_cast<uint32_t>(::getpid());
  hello.protocol = kProtocolVersion;
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  hello.host = name.data();
  const Message welcome = control.introduce<wire::AgentWelcomeT>(hello);
  agent = welcome.as<wire::AgentWelcomeT>()->agent;
  return AgentShell(arguments, context, control, zygote, welcome).run();
}

/// Replaces this process by a new one, which joins `run` at the same endpoint.
[[noreturn]] void join_again(char** argv, uint64_t run) {
  const std::string number = std::to_string(run);
  std::vector<char*> words;
  for (char** word = argv; *word != nullptr; ++word)
    words.push_back(!words.empty() && std::strcmp(words.back(), "--run") == 0 ? const_cast<char*>(number.c_str())
                                                                              : *word);
  words.push_back(nullptr);
  ::execv("/proc/self/exe", words.data());
  fail(Exit::resource, "spawn-failed", "cannot start this program again: {}", std::strerror(errno));
}

int run(const ChildArguments& arguments, char** argv) {
  if (!bind_to_parent(arguments)) return static_cast<int>(Exit::interrupted);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // orphans of the zygote, its runners, become children of this process
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : kEndingSignals) ::sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  int status;
  uint64_t next_run = 0;
  std::optional<uint32_t> agent;
  const std::string run_id = fmt::format("{:016x}", arguments.number("--run"));
  {
    // Runners' temporary folders: beside the driver's sockets, where they are the driver's to remove.
    const std::string& control_endpoint = arguments.text("--control");
    constexpr std::string_view kIpc = "ipc://";
    Zygote zygote(control_endpoint.starts_with(kIpc)
                      ? std::filesystem::path(control_endpoint.substr(kIpc.size())).parent_path().string()
                      : temporary_directory());  // before the first thread
    const std::string process =
        arguments.has("--key") ? arguments.text("--key") : fmt::format("agent-{}", arguments.number("--agent"));
    status = run_child(arguments, process, routing_id(arguments), [&](const auto& context, ControlLink& control) {
      control.tell_next_run(next_run);
      return body(arguments, context, control, zygote, agent);
    });
  }
  if (agent) end_processes_with({"MYRIAD_RUN=" + run_id, fmt::format("MYRIAD_HOST={}", *agent)});
  bury_children();                                // no runner outlives its agent
  RunnerLimits::sweep("/sys/fs/cgroup", run_id);  // their control groups
  if (next_run != 0 && status != kPreempted && arguments.number("--parent") == 0) join_again(argv, next_run);
  return status;
}

}  // namespace
}  // namespace myriad

int main(int argc, char** argv) {
  ::mallopt(M_ARENA_MAX, 1);
  myriad::make_writes_fail();
  try {
    return myriad::run(myriad::ChildArguments(argc, argv), argv);
  } catch (const std::exception& thrown) {
    const myriad::Error error = myriad::as_error(thrown);
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  }
}
