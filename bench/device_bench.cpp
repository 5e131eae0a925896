// device_bench: whole Learner::update calls a second on a device (upload, filter, targets, one gradient step,
// download), one line for each network and batch, with recorded work and bfloat16 on and off.
//
//   build/bench/device_bench [cuda | cuda:N | cpu = cuda] [seconds a case = 0.5]
//
// `cpu` runs the device's code on the CPU, which says only that it runs.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "learners/learner.hpp"
#include "rl/check.hpp"

using namespace myriad;

namespace {

constexpr int kObs = 17, kActions = 6;  // HalfCheetah's

/// [steps, environments] of a random policy, an episode's end of each kind in every hundredth row.
Fragment batch_of(int steps, int environments) {
  auto layout = std::make_shared<FragmentLayout>(steps, environments);
  layout->add("obs", Rows::step_and_bootstrap, DType::f32, {kObs})
      .add("actions", Rows::step, DType::f32, {kActions})
      .add("rewards", Rows::step, DType::f32, {})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {})
      .add("logp", Rows::step, DType::f32, {})
      .add("action_dist_inputs", Rows::step, DType::f32, {2 * kActions})
      .add("final_obs", Rows::final_step, DType::f32, {kObs});
  Fragment f(layout);
  RandomStream random(1, StreamPurpose::simulation, 0);
  for (const char* name : {"obs", "actions", "rewards", "final_obs"})
    for (float& x : f.values<float>(layout->column(name))) x = static_cast<float>(random.normal());
  for (float& x : f.values<float>(layout->column("logp"))) x = -8.5f;
  const auto flags = [&](const char* name) { return f.values<uint8_t>(layout->column(name)); };
  for (size_t i = 100; i < flags("truncateds").size(); i += 100) {
    flags(i % 200 == 0 ? "truncateds" : "terminateds")[i] = 1;
    f.final_rows += i % 200 == 0;
  }
  return f;
}

Config config_of(const std::string& algorithm, const std::vector<int>& hiddens, const std::string& device) {
  Config config = load_config(fmt::format("algorithm = '{}'", algorithm), "bench");
  config.environment.observation_filter = "MeanStdFilter";
  config.rl_module.fcnet_hiddens = hiddens;
  config.training.lr = 0.0;  // the policy stays near the behaviour's
  config.training.num_epochs = 1;
  config.training.minibatch_size = 0;
  config.training.grad_clip = 40.0;
  config.learners.device = device;
  config.learners.num_threads = 1;
  return config;
}

double updates_per_second(const Config& config, Fragment& batch, double seconds) {
  using Clock = std::chrono::steady_clock;
  Learner learner(config, Space::box(-10, 10, {kObs}), Space::box(-1, 1, {kActions}),
                  config.learners.device == "cpu" ? make_cpu_support() : nullptr);
  for (int i = 0; i < 5; ++i) learner.update(&batch);  // recorded by then
  const auto start = Clock::now();
  double elapsed = 0;
  int64_t count = 0;
  for (; elapsed < seconds; ++count, elapsed = std::chrono::duration<double>(Clock::now() - start).count()) {
    learner.update(&batch);
    (void)learner.weights();
  }
  return static_cast<double>(count) / elapsed;
}

void measure(const std::string& device, double seconds) {
  fmt::print("{:>8} {:>8} {:>7} {:>6} {:>9} {:>12} {:>14}\n", "", "hidden", "batch", "graph", "autocast", "updates /s",
             "samples /s");
  const std::vector<std::vector<int>> networks{{64, 64}, {256, 256}, {1024, 1024, 1024}};
  for (const char* algorithm : {"PPO", "IMPALA"})
    for (const std::vector<int>& hiddens : networks)
      for (const auto& [steps, environments] : {std::pair{16, 4}, {32, 8}, {64, 32}, {64, 256}}) {
        Fragment batch = batch_of(steps, environments);
        for (const bool graph : {true, false})
          for (const char* autocast : {"none", "bfloat16"}) {
            Config config = config_of(algorithm, hiddens, device);
            config.training.train_batch_size = int64_t{steps} * environments;
            config.learners.cuda_graph = graph;
            config.learners.autocast = autocast;
            const double rate = updates_per_second(config, batch, seconds);
            fmt::print("{:>8} {:>8} {:>7} {:>6} {:>9} {:>12.1f} {:>14.0f}\n", algorithm,
                       fmt::format("{}x{}", hiddens.size(), hiddens[0]), steps * environments, graph ? "on" : "off",
                       autocast, rate, rate * steps * environments);
            std::fflush(stdout);
          }
      }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    measure(argc > 1 ? argv[1] : "cuda", argc > 2 ? std::atof(argv[2]) : 0.5);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.line());
    return static_cast<int>(error.exit_status());
  }
}
