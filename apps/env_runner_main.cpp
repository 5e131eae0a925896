// myriad-env-runner: one env-runner process. hello -> welcome (config) -> join the learner -> sample, send, wait for
// credit.
//
// No libtorch here, one thread beside ZeroMQ's: a simulator, an Eigen forward pass and two sockets.
#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "apps/child.hpp"
#include "env_runners/rollout_worker.hpp"
#include "env_runners/runner_core.hpp"
#include "rl/config.hpp"

namespace myriad {
namespace {

constexpr Time kStatusEvery = std::chrono::milliseconds(500);
constexpr int kStepsBetweenChecks = 64;  // vector steps between looks at the clock

volatile sig_atomic_t g_terminated = 0;

uint64_t resident_bytes() {
  unsigned long pages = 0, resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lu %lu", &pages, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::string routing_id(const ChildArguments& arguments) {
  return fmt::format("runner-{}.{}", arguments.text("--slot"), arguments.text("--incarnation"));
}

class RunnerShell {
 public:
  RunnerShell(const ChildArguments& arguments, const SocketContext& context, ControlLink& control,
              const Message& welcome)
      : control_(control),
        clock_(make_system_clock()),
        slot_(static_cast<uint32_t>(arguments.number("--slot"))),
        incarnation_(static_cast<uint32_t>(arguments.number("--incarnation"))),
        config_(load_config(welcome.as<wire::RunnerWelcomeT>()->config, "config")),
        env_(configured_spec(EnvRegistry::instance().find(config_.environment.env), config_.environment.env_config)),
        spec_(make_mlp_spec(env_.observation_space, env_.action_space, config_.rl_module)),
        layout_(std::make_shared<const FragmentLayout>(RolloutWorker::layout_for(config_, env_, spec_))),
        worker_(config_, env_, spec_,
                uint64_t{slot_} * static_cast<uint64_t>(config_.env_runners.num_envs_per_env_runner), incarnation_),
        data_(context, welcome.as<wire::RunnerWelcomeT>()->learner_endpoint, routing_id(arguments)),
        core_(
            {.run = arguments.number("--run"),
             .epoch = arguments.number("--epoch"),
             .slot = slot_,
             .incarnation = incarnation_,
             .spec_hash = spec_.hash(),
             .fragment_hash = layout_->hash(),
             .num_inference_parameters = spec_.num_inference_parameters(),
             .filter_size = config_.environment.observation_filter == "NoFilter"
                                ? 0
                                : MeanStdFilter(spec_.obs_size, config_.environment.observation_clip).state().size()}) {
    if (welcome.payloads.size() == 1 && !welcome.payloads[0].view.empty()) {
      const std::string note = worker_.set_state(welcome.payloads[0].view);
      if (!note.empty()) std::fprintf(stderr, "%s\n", note.c_str());
    }
  }

  int run() {
    core_.tick(clock_->now());  // the first Join
    Time idle_since = clock_->now();
    while (g_terminated == 0) {
      pump();
      if (!core_.refused().empty())
        fail(Exit::internal, "refused", "the learner refuses this runner: {}", core_.refused());
      if (core_.may_sample()) {
        sample(clock_->now() - idle_since);
        idle_since = clock_->now();
      } else if (core_.wants_state()) {
        core_.state_saved(SharedBytes::of(worker_.state()), clock_->now());
      } else {
        const Time now = clock_->now();
        wait_readable({&data_, &control_.socket()}, -1, std::min(core_.next_timer(), next_status_) - now);
        core_.tick(clock_->now());
        send_status();
      }
    }
    return 0;
  }

 private:
  void pump() {
    while (auto received = data_.receive()) {
      auto decoded = decode(received->frames);
      if (auto* message = std::get_if<Message>(&decoded)) core_.received(*message, clock_->now());
    }
    while (auto message = control_.receive())
      if (message->as<wire::StopT>() != nullptr) g_terminated = 1;
    for (const Message& message : core_.take_outputs()) (void)data_.send(encode(message));
  }

  void sample(Time waited) {
    std::shared_ptr<Fragment> fragment = core_.take_free();
    if (fragment == nullptr) fragment = std::make_shared<Fragment>(layout_);
    const Time start = clock_->now();
    worker_.begin(*fragment, *core_.weights());
    while (!worker_.step_some(kStepsBetweenChecks) && g_terminated == 0) send_status();
    if (g_terminated != 0) return;
    core_.finished(std::move(fragment), static_cast<uint64_t>((clock_->now() - start).count()),
                   static_cast<uint64_t>(waited.count()), clock_->now());
    ++fragments_;
    pump();
    send_status();
  }

  void send_status() {
    const Time now = clock_->now();
    if (now < next_status_) return;
    next_status_ = now + kStatusEvery;
    wire::RunnerStatusT status;
    status.slot = slot_;
    status.incarnation = incarnation_;
    status.env_steps = worker_.num_env_steps();
    status.fragments = fragments_;
    status.rss_bytes = resident_bytes();
    control_.send(std::move(status));
  }

  ControlLink& control_;
  std::unique_ptr<Clock> clock_;
  uint32_t slot_, incarnation_;
  Config config_;
  EnvSpec env_;
  ModuleSpec spec_;
  std::shared_ptr<const FragmentLayout> layout_;
  RolloutWorker worker_;
  Dealer data_;
  RunnerCore core_;
  Time next_status_{};
  uint64_t fragments_ = 0;
};

int body(const ChildArguments& arguments, const SocketContext& context, ControlLink& control) {
  ::signal(SIGTERM, [](int) { g_terminated = 1; });
  wire::RunnerHelloT hello;
  hello.slot = static_cast<uint32_t>(arguments.number("--slot"));
  hello.incarnation = static_cast<uint32_t>(arguments.number("--incarnation"));
  hello.pid = static_cast<uint32_t>(::getpid());
  hello.protocol = kProtocolVersion;
  const Message welcome = control.introduce<wire::RunnerWelcomeT>(hello);
  return RunnerShell(arguments, context, control, welcome).run();
}

}  // namespace
}  // namespace myriad

int main(int argc, char** argv) {
  // One arena and small thresholds: a runner allocates at start and then no more, and thousands share a machine.
  ::mallopt(M_ARENA_MAX, 1);
  try {
    const myriad::ChildArguments arguments(argc, argv);
    return myriad::run_child(arguments, myriad::routing_id(arguments), myriad::body);
  } catch (const myriad::Error& error) {
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  }
}
