// What a runner's step costs beside the simulator's: the environment alone, with inference, and the whole
// RolloutWorker.
//
// One thread, medians of 5 repetitions of about 0.3 s. The framework's cost is the worker's time per env step less the
// bare environment's; inference is shown apart, since its size is the user's choice.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "env_runners/policy_kernels.hpp"
#include "env_runners/rollout_worker.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int kRepetitions = 5;
constexpr double kSeconds = 0.3;

/// ns per unit of work: the median over repetitions; `work` returns how many units it did.
double median_ns(const std::function<uint64_t()>& work) {
  using Clock = std::chrono::steady_clock;
  (void)work();  // caches, page faults
  std::vector<double> times;
  for (int r = 0; r < kRepetitions; ++r) {
    const auto start = Clock::now();
    double seconds = 0;
    uint64_t units = 0;
    for (; seconds < kSeconds; seconds = std::chrono::duration<double>(Clock::now() - start).count()) units += work();
    times.push_back(1e9 * seconds / static_cast<double>(units));
  }
  std::nth_element(times.begin(), times.begin() + kRepetitions / 2, times.end());
  return times[kRepetitions / 2];
}

/// The simulator and nothing else: B environments with random actions drawn beforehand, reset where episodes end.
struct BareEnvs {
  BareEnvs(const EnvSpec& spec, int n)
      : spec(spec), obs(spec.observation_space.row_bytes()), actions(kActions * spec.action_space.row_bytes()) {
    RandomStream random(1, StreamPurpose::action, 0);
    for (size_t i = 0; i < kActions; ++i) spec.action_space.sample(random, action(i));
    for (size_t b = 0; b < static_cast<size_t>(n); ++b) {
      slots.push_back({make_environment(spec, {}), RandomStream(1, StreamPurpose::environment, b), 0});
      slots[b].env->reset(slots[b].random, Row(obs));
    }
  }
  std::span<std::byte> action(size_t i) {
    return std::span(actions).subspan(i * spec.action_space.row_bytes(), spec.action_space.row_bytes());
  }
  uint64_t run() {
    for (int t = 0; t < 64; ++t)
      for (Slot& slot : slots) {
        const StepResult result = slot.env->step(ConstRow(action(next = (next + 1) % kActions)), slot.random, Row(obs));
        if (!result.terminated && ++slot.length != spec.max_episode_steps) continue;
        slot.env->reset(slot.random, Row(obs));
        slot.length = 0;
      }
    return 64 * slots.size();
  }

  static constexpr size_t kActions = 1024;
  struct Slot {
    std::unique_ptr<Environment> env;
    RandomStream random;
    int length;
  };
  const EnvSpec& spec;
  std::vector<std::byte> obs, actions;
  std::vector<Slot> slots;
  size_t next = 0;
};

void bench(const std::string& id, std::vector<int> hiddens, int n) {
  Config config;
  config.environment.env = id;
  config.env_runners.num_envs_per_env_runner = n;
  config.env_runners.rollout_fragment_length = 128;
  config.rl_module.fcnet_hiddens = std::move(hiddens);
  const EnvSpec& env = EnvRegistry::instance().find(id);
  const ModuleSpec spec = make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
  const Weights weights{.version = 0, .layout_hash = spec.hash(), .values = initial_parameters(spec, 1), .filter = {}};

  BareEnvs bare(env, n);
  const double env_ns = median_ns([&] { return bare.run(); });

  EigenPolicy policy(spec);
  policy.load(weights.values);
  const std::vector<float> obs(static_cast<size_t>(n * spec.obs_size), 0.3f);
  std::vector<float> inputs(static_cast<size_t>(n * policy.num_outputs()));
  const double policy_ns = median_ns([&] {
    for (int i = 0; i < 64; ++i) policy.forward(obs.data(), static_cast<size_t>(n), inputs.data());
    return uint64_t{64} * static_cast<uint64_t>(n);
  });

  const auto layout = std::make_shared<const FragmentLayout>(fragment_layout(config, env, spec));
  Fragment fragment(layout);
  const auto worker_ns = [&](bool random_actions) {
    config.env_runners.random_actions = random_actions;
    RolloutWorker worker(config, env, spec, 0);
    return median_ns([&] {
      worker.sample(fragment, weights);
      return uint64_t{128} * static_cast<uint64_t>(n);
    });
  };
  const double random_ns = worker_ns(true), whole_ns = worker_ns(false);
  const auto million = [](double ns) { return 1e3 / ns; };
  std::printf("%-15s %3d  %10.1f %8.3f  %8.1f %8.2f  %10.1f  %10.1f %8.3f  %9.1f %6.1f %%  %6.1f %%\n", id.c_str(), n,
              env_ns, million(env_ns), policy_ns, million(policy_ns), random_ns, whole_ns, million(whole_ns),
              whole_ns - env_ns - policy_ns, 100 * (whole_ns - env_ns - policy_ns) / env_ns,
              100 * (whole_ns - env_ns) / env_ns);
}

}  // namespace
}  // namespace myriad

int main(int argc, char** argv) {
  using namespace myriad;
  try {
    std::printf("kernels %s; ns and million per second, per env step; framework = sample - env - policy, of env\n",
                policy_kernels().isa);
    std::printf("%-15s %3s  %10s %8s  %8s %8s  %10s  %10s %8s  %9s %8s  %8s\n", "environment", "B", "env ns", "M/s",
                "policy", "M/s", "random ns", "sample ns", "M/s", "framework", "of env", "+policy");
    std::vector<std::string> others(argv + 1, argv + argc);
    const bool classic = std::erase(others, "--classic") > 0;
    for (const int n : {1, 8, 16, 64}) bench("CartPole-v1", {64, 64}, n);
    for (const std::string& env : others)
      for (const int n : {1, 8, 16, 64}) bench(env, {64, 64}, n);
    if (!classic)
      for (const int n : {1, 8, 16}) bench("HalfCheetah-v5", {64, 64}, n);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.line().c_str());
    return static_cast<int>(error.exit_status());
  }
}
