// A real zygote forks real runners; the test plays the agent.
#include "env_runners/zygote.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "env_runners/env_runner.hpp"
#include "env_runners/rollout_worker.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/packed.hpp"
#include "tests/env_runners/toy_envs.hpp"

namespace myriad {
namespace {

constexpr uint64_t kRun = 11;
constexpr const char* kConfig =
    "algorithm = \"PPO\"\nseed = 3\n[env_runners]\nnum_env_runners = 2\nnum_envs_per_env_runner = 3\n"
    "rollout_fragment_length = 16\n[training]\ntrain_batch_size = 96\nminibatch_size = 96\n";

void wait_for(int fd) {
  pollfd poll{fd, POLLIN, 0};
  REQUIRE(::poll(&poll, 1, 60'000) == 1);
}

ZygoteReport next(Zygote& zygote) {
  for (;;) {
    wait_for(zygote.fd());
    if (const auto report = zygote.receive()) return *report;
  }
}

/// One runner, seen from its agent.
struct Runner {
  Runner(Zygote& zygote, uint32_t slot, uint32_t incarnation)
      : page(SharedMemory::create("page", sizeof(RunnerPage), false)) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    fd = ends[0];
    zygote.spawn(slot, incarnation, ends[1], page.fd());
    const ZygoteReport report = next(zygote);
    REQUIRE(report.kind == ZygoteReport::Kind::spawned);
    CHECK(report.slot == slot);
    pid = report.pid;
    REQUIRE(pid > 0);
    wire::RunnerWelcomeT welcome;
    welcome.slot = slot;
    welcome.incarnation = incarnation;
    send(make_message(std::move(welcome), {SharedBytes{}}));
  }
  ~Runner() { ::close(fd); }

  void send(Message message) {
    message.run = kRun;
    message.epoch = 1;
    CHECK(send_packed(fd, encode(message)));
  }
  void permit(uint64_t granted) {
    wire::PermitT permit;
    permit.granted = granted;
    send(make_message(std::move(permit)));
  }
  Message receive() {
    while (inbox.empty()) {
      wait_for(fd);
      const auto outcome = reader.read(fd, [this](std::span<const std::byte> packed) {
        const SharedBytes bytes = SharedBytes::of({packed.begin(), packed.end()});
        auto decoded = decode(*unpack(bytes));
        REQUIRE(std::holds_alternative<Message>(decoded));
        inbox.push_back(std::move(std::get<Message>(decoded)));
      });
      REQUIRE((outcome == PackedReader::Outcome::blocked || !inbox.empty()));
    }
    Message message = std::move(inbox.front());
    inbox.erase(inbox.begin());
    return message;
  }

  SharedMemory page;
  PackedReader reader{size_t{1} << 20};
  std::vector<Message> inbox;
  int fd = -1, pid = 0;
};

/// Says in its first reset what it was able to do.
class Prying : public Environment {
 public:
  void reset(RandomStream&, Row) override {
    const auto tried = [](int result) { return result < 0 ? ::strerrorname_np(errno) : "ok"; };
    int descriptors = 0;
    for (int fd = STDERR_FILENO + 1; fd < 1024; ++fd) descriptors += ::fcntl(fd, F_GETFD) >= 0;
    throw std::runtime_error(fmt::format("write {}, socket {}, {} descriptors", tried(::open(target, O_WRONLY)),
                                         tried(::socket(AF_INET, SOCK_DGRAM, 0)), descriptors));
  }
  StepResult step(ConstRow, RandomStream&, Row) override { return {}; }
  static constexpr const char* target = "/proc/self/comm";  // everybody's own
};
const RegisterEnv prying{{.id = "ToyPrying-v0",
                          .observation_space = Space::box(-1.0, 1.0, {1}),
                          .action_space = Space::discrete(2),
                          .source = "a toy",
                          .make = [](const EnvOptions&) { return std::make_unique<Prying>(); }}};
const RegisterEnv prying_online{{.id = "ToyPryingOnline-v0",
                                 .observation_space = Space::box(-1.0, 1.0, {1}),
                                 .action_space = Space::discrete(2),
                                 .source = "a toy",
                                 .needs_network = true,
                                 .make = [](const EnvOptions&) { return std::make_unique<Prying>(); }}};

/// Stops its process amid a fragment, until somebody lets it go on.
class Stopping : public Environment {
 public:
  void reset(RandomStream& random, Row observation) override { observation.f32()[0] = float(random.uniform()); }
  StepResult step(ConstRow, RandomStream& random, Row observation) override {
    if (++steps_ == 5) ::raise(SIGSTOP);
    observation.f32()[0] = float(random.uniform());
    return {.reward = 1.0};
  }
  int steps_ = 0;
};
const RegisterEnv stopping{{.id = "ToyStopping-v0",
                            .observation_space = Space::box(-1.0, 1.0, {1}),
                            .action_space = Space::discrete(2),
                            .source = "a toy",
                            .make = [](const EnvOptions&) { return std::make_unique<Stopping>(); }}};

char state_of(int pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t name_ends = text.rfind(')');
  return name_ends == std::string::npos || name_ends + 2 >= text.size() ? '?' : text[name_ends + 2];
}

TEST_SUITE("env_runners/zygote") {
  TEST_CASE("Zygote: its runners sample with the weights in shared memory; a killed one is reported and replaced") {
    Zygote zygote("/tmp");
    zygote.set_up(kRun, 1, 0, kConfig);
    const ZygoteReport ready = next(zygote);
    INFO(ready.text);
    REQUIRE(ready.kind == ZygoteReport::Kind::ready);
    RunnerSetup setup = RunnerSetup::load(kRun, 1, kConfig);
    CHECK(ready.spec_hash == setup.spec.hash());
    CHECK(ready.fragment_bytes == setup.layout->capacity_bytes());
    SharedMemory region = SharedMemory::create("weights", ready.weights.bytes(), true);
    zygote.share_weights(region);
    SharedWeightsWriter writer(ready.weights, region.data());
    Weights weights{5, setup.spec.hash(), std::vector<float>(ready.weights.num_values, 0.01f), {}};
    REQUIRE(writer.publish(weights, [](uint32_t) { return false; }));

    int second_pid = 0;
    {
      Runner runner(zygote, 1, 0);
      const Message hello = runner.receive();
      REQUIRE(hello.as<wire::SlotStateT>() != nullptr);
      CHECK(hello.as<wire::SlotStateT>()->slot == 1);
      CHECK(hello.as<wire::SlotStateT>()->up);

      runner.permit(2);
      // What a worker in this process samples with the same weights and streams, byte for byte.
      RolloutWorker worker(setup.config, setup.env, setup.spec, 3);
      for (uint64_t seq = 0; seq < 2; ++seq) {
        const Message message = runner.receive();
        const auto* header = message.as<wire::FragmentHeaderT>();
        REQUIRE(header != nullptr);
        CHECK(id_of(*header) == FragmentId{1, 0, seq});
        CHECK(header->weights_version == 5);
        Fragment fragment(setup.layout);
        worker.sample(fragment, weights);
        REQUIRE(message.payloads[0].view.size() == fragment.used().size());
        CHECK(std::equal(fragment.used().begin(), fragment.used().end(), message.payloads[0].view.begin()));
      }
      CHECK(reinterpret_cast<RunnerPage*>(runner.page.data())->pinned == 0);

      ::kill(runner.pid, SIGKILL);
      const ZygoteReport exited = next(zygote);
      REQUIRE(exited.kind == ZygoteReport::Kind::exited);
      CHECK(exited.slot == 1);
      CHECK(WIFSIGNALED(exited.status));

      Runner second(zygote, 1, 1);
      CHECK(second.receive().as<wire::SlotStateT>()->incarnation == 1);
      second_pid = second.pid;
      // Its draws are its incarnation's, none of those before.
      second.permit(1);
      const Message first = second.receive();
      RolloutWorker successor(setup.config, setup.env, setup.spec, 3, 1),
          before(setup.config, setup.env, setup.spec, 3);
      Fragment own(setup.layout), repeated(setup.layout);
      successor.sample(own, weights), before.sample(repeated, weights);
      REQUIRE(first.payloads[0].view.size() == own.used().size());
      CHECK(std::equal(own.used().begin(), own.used().end(), first.payloads[0].view.begin()));
      CHECK(!std::ranges::equal(own.used(), repeated.used()));
    }
    const ZygoteReport gone = next(zygote);  // it saw its socket close
    REQUIRE(gone.kind == ZygoteReport::Kind::exited);
    CHECK(gone.pid == second_pid);
    CHECK(WEXITSTATUS(gone.status) == 0);
  }

  TEST_CASE("Zygote: a runner's weights stay as they are while it samples with them, and are let go of afterwards") {
    std::string config =
        "seed = 3\n[env_runners]\nnum_env_runners = 1\nnum_envs_per_env_runner = 1\n"
        "rollout_fragment_length = 16\n[training]\ntrain_batch_size = 16\nminibatch_size = 16\n"
        "[environment]\nenv = \"ToyStopping-v0\"\n";
    config.insert(0, "algorithm = \"PPO\"\n");
    Zygote zygote("/tmp");
    zygote.set_up(kRun, 1, 0, config);
    const ZygoteReport ready = next(zygote);
    INFO(ready.text);
    REQUIRE(ready.kind == ZygoteReport::Kind::ready);
    const RunnerSetup setup = RunnerSetup::load(kRun, 1, config);
    SharedMemory region = SharedMemory::create("weights", ready.weights.bytes(), true);
    zygote.share_weights(region);
    SharedWeightsWriter writer(ready.weights, region.data());
    const ModuleSpec& spec = setup.spec;
    std::vector<float> values = initial_parameters(spec, 1);
    values.resize(ready.weights.num_values);
    for (float& value : values) value *= 9.0f;
    const Weights weights{5, spec.hash(), values, {}}, others{6, spec.hash(), std::vector<float>(values.size()), {}};
    Runner runner(zygote, 0, 0);
    const auto* page = reinterpret_cast<const RunnerPage*>(runner.page.data());
    const auto pinned = [&](uint32_t buffer) { return page->pinned == buffer + 1; };
    REQUIRE(writer.publish(weights, pinned));
    REQUIRE(runner.receive().as<wire::SlotStateT>() != nullptr);
    CHECK(page->pinned == 0);
    runner.permit(1);
    while (state_of(runner.pid) != 'T') REQUIRE(::kill(runner.pid, 0) == 0);
    CHECK(page->pinned == 1);  // the first buffer
    for (int i = 0; i < 20; ++i) REQUIRE(writer.publish(others, pinned));
    REQUIRE(::kill(runner.pid, SIGCONT) == 0);
    const Message message = runner.receive();
    const auto* header = message.as<wire::FragmentHeaderT>();
    REQUIRE(header != nullptr);
    CHECK(header->weights_version == 5);
    CHECK(page->pinned == 0);
    // What the first weights make of each observation, to the last one.
    const std::span<const std::byte> bytes = message.payloads[0].view;
    const auto floats = [&](const char* name) {
      return reinterpret_cast<const float*>(bytes.data() + setup.layout->column(name).offset);
    };
    EigenPolicy policy(spec);
    policy.load(weights.values);
    for (size_t t = 0; t < 16; ++t) {
      std::array<float, 2> inputs{};
      policy.forward(floats("obs") + t, 1, inputs.data());
      CHECK(floats("action_dist_inputs")[2 * t] == inputs[0]);
      CHECK(floats("action_dist_inputs")[2 * t + 1] == inputs[1]);
      CHECK(inputs[0] != inputs[1]);  // as those of the others would be
    }
  }

  TEST_CASE("RunnerSetup: the environment is the config's, with its wrappers, options and time limit") {
    (void)test::counter();  // registered
    const RunnerSetup setup = RunnerSetup::load(
        kRun, 1,
        "algorithm = \"PPO\"\n[environment]\nenv = \"ToyCounter-v0\"\nenv_config = { length = 5 }\nframe_skip = 3\n"
        "frame_stack = 2\nmax_episode_steps = 9\nobservation_filter = \"MeanStdFilter\"\n[env_runners]\n"
        "rollout_fragment_length = 8\n[training]\ntrain_batch_size = 64\nminibatch_size = 64\n[curriculum]\nrandomize "
        "= { length = [5, 5] }\n");
    CHECK(setup.env.max_episode_steps == 9);
    CHECK(setup.env.options.at("length") == 5);
    CHECK(setup.layout->frame_stack() == 2);
    CHECK(setup.spec.obs_size == 4);                      // two frames of two
    CHECK(setup.weights_layout.num_filter == 1 + 2 * 4);  // count, means, squares
    CHECK(setup.weights_layout.num_published == 3);       // level, low, high
    CHECK(setup.weights_layout.num_values == setup.spec.num_inference_parameters());
    const auto env = make_environment(setup.env, setup.config.environment.env_config);
    RandomStream random(1, StreamPurpose::environment, 0);
    std::array<float, 4> seen{};
    const Row row(std::as_writable_bytes(std::span(seen)));
    const int32_t action = 1;
    env->reset(random, row);
    StepResult result = env->step(ConstRow(std::as_bytes(std::span(&action, 1))), random, row);
    CHECK(result.reward == 2 + 3 + 4);  // the counts 1, 2 and 3, and the action each time
    CHECK(!result.terminated);
    CHECK(seen[0] == 0);
    CHECK(seen[2] == 3);
    result = env->step(ConstRow(std::as_bytes(std::span(&action, 1))), random, row);
    CHECK(result.reward == 5 + 6);
    CHECK(result.terminated);
    std::string text = setup.config_toml;
    const auto published = [&] { return RunnerSetup::load(kRun, 1, text).weights_layout.num_published; };
    CHECK(published() == 3);
    text = "algorithm = \"PQN\"\n[environment]\nenv = \"ToyCounter-v0\"\n";
    CHECK(published() == 1);  // epsilon
    text += "[curriculum]\nrandomize = { length = [5, 5] }\n";
    CHECK(published() == 4);
  }

  TEST_CASE("Zygote: its runners are in the sandbox, with the network only where their environment needs it") {
    const Sandbox::Kernel kernel = Sandbox::Kernel::probe();
    if (kernel.landlock_abi < 1 || !kernel.seccomp) {
      std::printf("SKIPPED: Landlock ABI %d, seccomp %d\n", kernel.landlock_abi, kernel.seccomp);
      return;
    }
    const auto said = [](const std::string& env, const std::string& sandbox) {
      Zygote zygote("/tmp");
      std::string config = kConfig;
      config.insert(config.find("[training]"), "sandbox = \"" + sandbox + "\"\n");
      zygote.set_up(kRun, 1, 0, config + "[environment]\non_failure = \"end\"\nenv = \"" + env + "\"\n");
      const ZygoteReport ready = next(zygote);
      INFO(ready.text);
      REQUIRE(ready.kind == ZygoteReport::Kind::ready);
      Sandbox::Options options{.level = sandbox};
      options.network = env == "ToyPryingOnline-v0";
      CHECK(ready.sandbox == Sandbox(options).describe());
      SharedMemory region = SharedMemory::create("weights", ready.weights.bytes(), true);
      zygote.share_weights(region);
      SharedWeightsWriter writer(ready.weights, region.data());
      REQUIRE(writer.publish({1, ready.spec_hash, std::vector<float>(ready.weights.num_values), {}},
                             [](uint32_t) { return false; }));
      Runner runner(zygote, 0, 0);
      runner.permit(1);
      for (;;)
        if (const Message message = runner.receive(); const auto* error = message.as<wire::ProcessErrorT>())
          return error->message.substr(error->message.find("write "),
                                       error->message.find("; check") - error->message.find("write "));
    };
    CHECK(said("ToyPrying-v0", "default") == "write EACCES, socket EPERM, 1 descriptors");
    CHECK(said("ToyPryingOnline-v0", "default") == "write EACCES, socket ok, 1 descriptors");
    CHECK(said("ToyPrying-v0", "off") == "write ok, socket ok, 1 descriptors");
  }

  TEST_CASE("Zygote: a config it cannot load is answered with the error's code, text and exit status") {
    Zygote zygote("/tmp");
    zygote.set_up(kRun, 1, 0, "[environment]\nenv = \"CartPol-v1\"\n");
    const ZygoteReport failed = next(zygote);
    REQUIRE(failed.kind == ZygoteReport::Kind::failed);
    CHECK(std::string(failed.code) == "unknown-env");
    CHECK(std::string(failed.text).find("CartPole-v1") != std::string::npos);
    CHECK(failed.exit == static_cast<int>(Exit::usage));
  }

  TEST_CASE("Zygote: a runner whose environment throws says so and exits with its status") {
    Zygote zygote("/tmp");
    zygote.set_up(kRun, 1, 0, std::string(kConfig) + "[environment]\nenv = \"CartPole-v1\"\n");
    REQUIRE(next(zygote).kind == ZygoteReport::Kind::ready);
    RunnerSetup setup = RunnerSetup::load(kRun, 1, kConfig);
    SharedMemory region = SharedMemory::create("weights", setup.weights_layout.bytes(), true);
    zygote.share_weights(region);
    SharedWeightsWriter writer(setup.weights_layout, region.data());
    const float nan = std::numeric_limits<float>::quiet_NaN();
    REQUIRE(writer.publish({1, setup.spec.hash(), std::vector<float>(setup.weights_layout.num_values, nan), {}},
                           [](uint32_t) { return false; }));
    Runner runner(zygote, 0, 0);
    CHECK(runner.receive().as<wire::SlotStateT>() != nullptr);
    runner.permit(1);
    const Message last_word = runner.receive();
    REQUIRE(last_word.as<wire::ProcessErrorT>() != nullptr);
    CHECK(last_word.as<wire::ProcessErrorT>()->code == "nan");
    CHECK(last_word.as<wire::ProcessErrorT>()->slot == 0);
    const ZygoteReport exited = next(zygote);
    CHECK(WEXITSTATUS(exited.status) == static_cast<int>(Exit::internal));
  }
}

}  // namespace
}  // namespace myriad
