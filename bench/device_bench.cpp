// device_bench: whole Learner::update calls a second on a device (upload, filter, targets, one gradient step,
// download), one line for each network and batch, with recorded work and bfloat16 on and off.
//
//   build/bench/device_bench [cuda | cuda:N | cpu = cuda] [seconds a case = 0.5]
//
// `cpu` runs the device's code on the CPU, which says only that it runs.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "bench/example_batch.hpp"
#include "learners/learner.hpp"
#include "rl/check.hpp"

using namespace myriad;

namespace {

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
