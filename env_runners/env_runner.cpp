#include "env_runners/env_runner.hpp"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "env_runners/rollout_worker.hpp"
#include "rl/check.hpp"
#include "rl/env_context.hpp"
#include "rl/machine.hpp"
#include "rl/module_json.hpp"
#include "rl/run_layout.hpp"
#include "rl/simulator/clients.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/packed.hpp"
#include "rl/wire/process_error.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

constexpr int kStepsBetweenSigns = 64;  // vector steps between signs of life, of environments that are quick
constexpr Time kSlow = std::chrono::milliseconds(100);  // for so many: then there is a sign of life after each
constexpr size_t kMaxMessageBytes = size_t{64} << 20;

class EnvRunner {
 public:
  EnvRunner(const RunnerSetup& setup, uint32_t slot, uint32_t incarnation, int socket, int door,
            const std::byte* weights, RunnerPage& page)
      : setup_(setup),
        slot_(slot),
        incarnation_(incarnation),
        socket_(socket),
        page_(page),
        reader_(kMaxMessageBytes),
        weights_(setup.weights_layout, weights, page),
        clock_(make_system_clock()),
        fragment_(std::make_shared<Fragment>(setup.layout)) {
    policy_.weights = [this] { return weights_for_clients(); };
    // A simulator that does not answer is named before the agent takes the runner for hung.
    context_.answer_timeout = seconds(0.8 * setup.config.env_runners.step_timeout_s);
    context_.start_timeout = seconds(setup.config.env_runners.start_timeout_s);
    context_.facts = setup.config.plugins.environment;
    context_.alive = [this] { sign_of_life(); };
    context_.starts = [&page](bool begins) {
      begins ? page.starts.fetch_add(1, std::memory_order_relaxed)
             : page.starts.fetch_sub(1, std::memory_order_relaxed);
      page.progress.fetch_add(1, std::memory_order_release);
    };
    context_.made = [&page](size_t made, size_t) {
      page.made.store(static_cast<uint32_t>(made), std::memory_order_relaxed);
    };
    context_.door = door;
    context_.policy = &policy_;
    if (const char* directory = std::getenv("MYRIAD_LEDGER"))
      ledger_ = ::open((std::string(directory) + "/produced-" + std::to_string(setup.run) + ".bin").c_str(),
                       O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }

  void run() {
    Time idle_since = clock_->now();
    while (receive()) {
      while (produced_ < granted_) {
        const Time start = clock_->now();
        if (!sample(start - idle_since)) return;
        idle_since = clock_->now();
        if (!receive_some(0)) return;
      }
      if (want_state_ > state_sent_ && !save_state()) return;
    }
  }

  /// Whether the agent has closed the connection: the runner is to end.
  bool is_over() const {
    pollfd poll{socket_, POLLRDHUP, 0};
    return ::poll(&poll, 1, 0) > 0 && (poll.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }

  void send_error(const Error& error, const std::string& hint) {
    wire::ProcessErrorT last_word = process_error(error);
    if (const auto* failure = dynamic_cast<const EnvError*>(&error)) {
      last_word.failures = failure->in_a_row;
      last_word.ends_run = !failure->mendable || setup_.config.environment.on_failure == "end";
    }
    last_word.slot = slot_;
    last_word.message += hint;
    (void)send(make_message(std::move(last_word)));
  }

 private:
  void sign_of_life() {
    page_.progress.fetch_add(1, std::memory_order_relaxed);
    if (is_over()) fail(Exit::interrupted, "stopped", "the agent has closed the connection");
  }

  /// Waits for the next message and takes all that came; false when the agent is gone.
  bool receive() { return receive_some(-1); }

  bool receive_some(int timeout_ms) {
    pollfd poll{socket_, POLLIN, 0};
    if (::poll(&poll, 1, timeout_ms) <= 0) return true;
    const auto outcome = reader_.read(socket_, [this](std::span<const std::byte> packed) { take(packed); });
    return outcome == PackedReader::Outcome::blocked;
  }

  void take(std::span<const std::byte> packed) {
    const auto frames = unpack({nullptr, packed});
    check(frames.has_value(), "the agent sent what is no packed message");
    auto decoded = decode(*frames);
    const auto* message = std::get_if<Message>(&decoded);
    check(message != nullptr, "the agent sent what is no message: {}",
          message == nullptr ? name_of(std::get<Malformed>(decoded)) : "");
    if (const auto* permit = message->as<wire::PermitT>()) {
      granted_ = std::max(granted_, permit->granted);
      want_state_ = std::max(want_state_, permit->want_state);
    } else if (message->as<wire::RunnerWelcomeT>() != nullptr && !worker_) {
      begin(message->payloads.empty() ? std::span<const std::byte>{} : message->payloads[0].view);
    }
  }

  void begin(std::span<const std::byte> state) {
    worker_.emplace(setup_.config, setup_.env, setup_.spec,
                    uint64_t{slot_} * static_cast<uint64_t>(setup_.config.env_runners.num_envs_per_env_runner),
                    incarnation_, context_);
    worker_->on_event([this](std::string_view kind, const std::string& text) {
      std::fprintf(stderr, "runner %u: %s\n", slot_, text.c_str());
      wire::EventT event;
      event.kind = kind;
      event.text = fmt::format("runner {}: {}", slot_, text);
      (void)send(make_message(std::move(event)));
    });
    if (!state.empty())
      if (const std::string note = worker_->set_state(state); !note.empty())
        std::fprintf(stderr, "runner %u: %s\n", slot_, note.c_str());
    wire::SlotStateT hello;
    hello.slot = slot_;
    hello.incarnation = incarnation_;
    hello.up = true;
    (void)send(make_message(std::move(hello)));
  }

  /// For clients that act themselves; while a fragment is sampled.
  simulator::WeightsT weights_for_clients() const {
    simulator::WeightsT weights;
    weights.version = current_->version;
    TensorMap module, connectors;
    for (const Parameter& p : setup_.spec.parameters())
      if (p.offset < current_->values.size())
        module[p.name] = Tensor::of(current_->values.subspan(p.offset, p.count), {p.shape.begin(), p.shape.end()});
    if (!current_->filter.empty())
      connectors["mean_std_filter"] = Tensor::of(current_->filter, {current_->filter.size()});
    if (std::holds_alternative<EpsilonGreedy>(setup_.spec.distribution))
      connectors["epsilon"] = Tensor::of(current_->published.last(1), {1});
    weights.parameters = simulator::bytes_of(encode_safetensors(module));
    weights.connectors = simulator::bytes_of(encode_safetensors(connectors));
    weights.config = setup_.config_toml;
    weights.network = to_json(setup_.spec);
    return weights;
  }

  bool sample(Time waited) {
    const Time start = clock_->now();
    const auto weights = weights_.acquire();
    check(weights.has_value() && worker_, "a permit came before weights");
    current_ = *weights;
    policy_.version = weights->version;
    worker_->begin(*fragment_, *weights);
    Time before = clock_->now();
    for (int steps = steps_between_signs_; !worker_->step_some(steps); steps = steps_between_signs_) {
      const Time now = clock_->now(), took = now - std::exchange(before, now);
      steps_between_signs_ = took * kStepsBetweenSigns > kSlow * steps ? 1 : kStepsBetweenSigns;
      sign_of_life();
    }
    weights_.release();
    fragment_->id = {slot_, incarnation_, produced_++};
    fragment_->weights_version = weights->version;
    note_in_ledger();
    return send(fragment_message(fragment_, static_cast<uint64_t>((clock_->now() - start).count()),
                                 static_cast<uint64_t>(waited.count()), worker_->clients_lag()));
  }

  /// For tests of what is lost: every fragment that exists, as the learner notes every one it uses (apps/learner/main).
  void note_in_ledger() const {
    if (ledger_ < 0) return;
    const std::array<uint64_t, 3> record{uint64_t{incarnation_} << 32 | slot_, produced_ - 1,
                                         static_cast<uint64_t>(::getpid())};
    check(::write(ledger_, record.data(), sizeof record) == sizeof record, "the ledger cannot be written");
  }

  bool save_state() {
    wire::RunnerStateT header;
    header.slot = slot_;
    header.incarnation = incarnation_;
    header.seq = produced_;
    header.checkpoint = state_sent_ = want_state_;
    return send(make_message(std::move(header), {SharedBytes::of(worker_->state())}));
  }

  bool send(Message message) {
    message.run = setup_.run;
    message.epoch = setup_.epoch;
    return send_packed(socket_, encode(message));
  }

  const RunnerSetup& setup_;
  uint32_t slot_, incarnation_;
  int socket_;
  RunnerPage& page_;
  PackedReader reader_;
  SharedWeightsReader weights_;
  int ledger_ = -1;
  std::unique_ptr<Clock> clock_;
  std::shared_ptr<Fragment> fragment_;
  simulator::PolicySource policy_;
  EnvContext context_;  ///< inside the sandbox: what its environments start is inside by itself
  std::optional<RolloutWorker> worker_;
  std::optional<WeightsView> current_;  ///< of the fragment that is sampled
  uint64_t granted_ = 0, produced_ = 0, want_state_ = 0, state_sent_ = 0;
  int steps_between_signs_ = kStepsBetweenSigns;
};

}  // namespace

RunnerSetup RunnerSetup::load(uint64_t run, uint64_t epoch, std::string_view config_toml) {
  Config config = load_config(config_toml, "config");
  RunLayout layout = RunLayout::of(config);
  const SharedWeightsLayout weights{.num_values = layout.module.num_inference_parameters(),
                                    .num_filter = layout.num_filter,
                                    .num_published = layout.num_published};
  std::string text = to_toml(config);
  return {run,
          epoch,
          std::move(config),
          std::move(text),
          std::move(layout.env),
          std::move(layout.module),
          std::move(layout.fragment),
          weights};
}

int run_env_runner(const RunnerSetup& setup, uint32_t slot, uint32_t incarnation, int socket, int door,
                   const std::byte* weights, RunnerPage& page, const Sandbox& sandbox) {
  if (setup.env.isolated) ::setenv("MYRIAD_RUNNER", std::to_string(slot).c_str(), 1);  // for foreign code
  EnvRunner runner(setup, slot, incarnation, socket, door, weights, page);
  const auto end_with = [&](const Error& error) {
    if (runner.is_over()) return 0;
    const std::string hint = setup.env.isolated ? sandbox_hint(sandbox.options(), error.what()) : "";
    std::fprintf(stderr, "runner %u: %s%s\n", slot, error.line().c_str(), hint.c_str());
    runner.send_error(error, hint);
    return static_cast<int>(error.exit_status());
  };
  try {
    sandbox.enter();  // the ledger is open, foreign code not loaded
    ::close(sandbox.fd());
    runner.run();
    return 0;
  } catch (const Error& error) { return end_with(error); } catch (const std::exception& error) {
    return end_with(as_error(error));
  }
}

}  // namespace myriad
