// device_bench: whole Learner::update calls a second on a device (upload, filter, targets, one gradient step,
// download), one line for each network and batch, with recorded work and bfloat16 on and off; first, in the same run,
// what the device does at best.
//
//   build/bench/device_bench [cuda | cuda:N | cpu = cuda] [seconds a case = 0.5]
//
// `cpu` runs the device's code on the CPU, which says only that it runs. "of peak" is 3 x the forward FLOPs of both
// networks at this rate, against a product of two large matrices in the same precision.
#include <ATen/ATen.h>
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

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// FLOP/s of a product of two square matrices of random numbers.
double product_rate(DeviceSupport& device, at::ScalarType type) {
  const int64_t size = device.device().is_cuda() ? 8192 : 1024;
  constexpr int kProducts = 10;
  double seconds = 0;
  device.run([&] {
    const auto options = at::TensorOptions(at::kFloat).device(device.device());
    const at::Tensor a = at::randn({size, size}, options).to(type), b = at::randn({size, size}, options).to(type);
    at::Tensor c = at::mm(a, b);
    for (const bool timed : {false, true}) {
      (void)c[0][0].item();
      const auto start = Clock::now();
      for (int i = 0; i < kProducts; ++i) at::mm_out(c, a, b);
      (void)c[0][0].item();
      if (timed) seconds = since(start);
    }
  });
  return 2.0 * static_cast<double>(size * size * size) * kProducts / seconds;
}

/// Seconds of the smallest operator, queued one by one and recorded.
std::pair<double, double> launch_seconds(DeviceSupport& device) {
  constexpr int kLaunches = 1000;
  double plain = 0, recorded = 0;
  device.run([&] {
    const at::Tensor x = at::zeros({1}, at::TensorOptions(at::kFloat).device(device.device()));
    const auto launches = [&] {
      for (int i = 0; i < kLaunches; ++i) x.add_(1.0f);
    };
    const auto time = [&](const std::function<void()>& work) {
      work();
      (void)x.item();
      const auto start = Clock::now();
      work();
      (void)x.item();
      return since(start) / kLaunches;
    };
    plain = time(launches);
    const auto graph = device.record(launches);
    if (graph != nullptr) recorded = time([&] { graph->replay(); });
  });
  return {plain, recorded};
}

double updates_per_second(const Config& config, Fragment& batch, double seconds) {
  Learner learner(config, Space::box(-10, 10, {kObs}), Space::box(-1, 1, {kActions}),
                  config.learners.device == "cpu" ? make_cpu_support() : nullptr);
  for (int i = 0; i < 5; ++i) learner.update(&batch);  // recorded by then
  const auto start = Clock::now();
  double elapsed = 0;
  int64_t count = 0;
  for (; elapsed < seconds; ++count, elapsed = since(start)) {
    learner.update(&batch);
    (void)learner.weights();
  }
  return static_cast<double>(count) / elapsed;
}

void measure(const std::string& device, double seconds) {
  const std::unique_ptr<DeviceSupport> support = device == "cpu" ? make_cpu_support() : open_device(device, 0);
  const double f32 = product_rate(*support, at::kFloat), bf16 = product_rate(*support, at::kBFloat16);
  const auto [plain, recorded] = launch_seconds(*support);
  fmt::print(
      "products of matrices: float32 {:.1f} TFLOP/s, bfloat16 {:.1f}; smallest operator {:.2f} us, recorded {:.2f}\n",
      1e-12 * f32, 1e-12 * bf16, 1e6 * plain, 1e6 * recorded);
  fmt::print("{:>8} {:>8} {:>7} {:>6} {:>9} {:>12} {:>14} {:>8}\n", "", "hidden", "batch", "graph", "autocast",
             "updates /s", "samples /s", "of peak");
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
            const double samples = rate * steps * environments;
            const double peak = config.learners.autocast == "none" ? f32 : bf16;
            fmt::print("{:>8} {:>8} {:>7} {:>6} {:>9} {:>12.1f} {:>14.0f} {:>7.2f}%\n", algorithm,
                       fmt::format("{}x{}", hiddens.size(), hiddens[0]), steps * environments, graph ? "on" : "off",
                       autocast, rate, samples, 100.0 * 3.0 * forward_flops(hiddens) * samples / peak);
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
