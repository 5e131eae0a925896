// learner_bench: PPO minibatch updates a second (forward, loss, backward, clipping, Adam), for both executors and for
// the same update written plainly on libtorch's modules and optimizer, in one run. With `impala` or `appo`: whole
// Learner::update calls on a batch, and the share of their time that is not the native module's passes and Adam.
//
//   build/bench/learner_bench [ppo | impala | appo] [threads = 1] [seconds a case = 0.5]
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdlib>

#include "algorithms/ppo.hpp"
#include "learners/learner.hpp"

using namespace myriad;

namespace {

constexpr int kObs = 17, kActions = 6;  // HalfCheetah's

Config config_of(int hidden) {
  Config config;
  config.algorithm_config = std::make_unique<PpoConfig>();
  config.rl_module.fcnet_hiddens = {hidden, hidden};
  return config;
}

Columns minibatch_of(int64_t n) {
  return {{"obs", torch::randn({n, kObs})},  {"actions", torch::randn({n, kActions})},
          {"logp", torch::full({n}, -8.5)},  {"action_dist_inputs", torch::zeros({n, 2 * kActions})},
          {"advantages", torch::randn({n})}, {"value_targets", torch::randn({n})}};
}

/// Updates a second of `update`, after a tenth of the time to warm up.
template <class Update>
double rate(double seconds, Update update) {
  using Clock = std::chrono::steady_clock;
  const auto run = [&](double limit) {
    const auto start = Clock::now();
    double elapsed = 0;
    int64_t count = 0;
    for (; elapsed < limit; ++count, elapsed = std::chrono::duration<double>(Clock::now() - start).count()) update();
    return static_cast<double>(count) / elapsed;
  };
  run(0.1 * seconds);
  return run(seconds);
}

double myriad_rate(Executor executor, int hidden, int64_t n, int threads, double seconds) {
  const Config config = config_of(hidden);
  const auto algorithm = make_algorithm(config);
  const ModuleSpec spec = algorithm->module_spec(Space::box(-1, 1, {kObs}), Space::box(-1, 1, {kActions}));
  TorchModule module(spec, initial_parameters(spec, 1), executor, threads);
  Optimizer optimizer(spec, 1e-8, 0.5);
  const Columns minibatch = minibatch_of(n);
  return rate(seconds, [&] {
    module.zero_gradients();
    algorithm->loss(spec, module.forward(minibatch.at("obs")), minibatch).total.backward();
    if (optimizer.step(module.parameters(), module.gradients(), 1e-4) == Optimizer::Outcome::skipped) std::abort();
  });
}

/// What one writes first: nn::Sequential, operators, torch::optim::Adam.
double plain_rate(int hidden, int64_t n, double seconds) {
  namespace nn = torch::nn;
  const auto mlp = [&](int out) {
    return nn::Sequential(nn::Linear(kObs, hidden), nn::Tanh(), nn::Linear(hidden, hidden), nn::Tanh(),
                          nn::Linear(hidden, out));
  };
  nn::Sequential policy = mlp(kActions), value = mlp(1);
  torch::Tensor log_std = torch::zeros({kActions}, torch::requires_grad());
  std::vector<torch::Tensor> parameters = policy->parameters();
  for (const torch::Tensor& p : value->parameters()) parameters.push_back(p);
  parameters.push_back(log_std);
  torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(1e-4));
  const Columns c = minibatch_of(n);
  const auto gaussian_logp = [](const torch::Tensor& mean, const torch::Tensor& log_std_, const torch::Tensor& x) {
    return (-0.5 * ((x - mean) / log_std_.exp()).square() - log_std_ - 0.9189385332).sum(-1);
  };
  const torch::Tensor old_mean = c.at("action_dist_inputs").narrow(1, 0, kActions),
                      old_log_std = c.at("action_dist_inputs").narrow(1, kActions, kActions);
  return rate(seconds, [&] {
    optimizer.zero_grad();
    const torch::Tensor mean = policy->forward(c.at("obs")), values = value->forward(c.at("obs")).squeeze(-1);
    const torch::Tensor ls = log_std.expand_as(mean),
                        ratio = (gaussian_logp(mean, ls, c.at("actions")) - c.at("logp")).exp();
    const torch::Tensor surrogate = torch::min(ratio * c.at("advantages"), ratio.clamp(0.7, 1.3) * c.at("advantages"));
    const torch::Tensor vf = (values - c.at("value_targets")).square().clamp(0, 10);
    const torch::Tensor entropy = (ls + 1.4189385332).sum(-1);
    const torch::Tensor kl =
        (ls - old_log_std + ((2 * old_log_std).exp() + (old_mean - mean).square()) / (2 * (2 * ls).exp()) - 0.5)
            .sum(-1);
    const torch::Tensor loss = (-surrogate + vf - 0.0 * entropy + 0.2 * kl).mean();
    loss.backward();
    torch::nn::utils::clip_grad_norm_(parameters, 0.5);
    optimizer.step();
  });
}

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

/// IMPALA's or APPO's updates a second with two hidden layers of 64, one line for each batch size.
void sequence_rates(const std::string& algorithm, int threads, double seconds) {
  const Space obs = Space::box(-10, 10, {kObs}), actions = Space::box(-1, 1, {kActions});
  Config config = load_config(fmt::format("algorithm = '{}'", algorithm), "bench");
  config.rl_module.fcnet_hiddens = {64, 64};
  config.learners.num_threads = threads;
  config.training.lr = 0.0;  // the policy stays near the behaviour's
  fmt::print("{:>10} {:>6} {:>6} {:>12} {:>14} {:>10} {:>18}\n", "batch", "T", "N", "updates /s", "samples /s",
             "passes", "outside module %");
  for (const auto& [steps, environments] : {std::pair{50, 10}, std::pair{64, 64}, std::pair{64, 256}}) {
    config.training.train_batch_size = int64_t{steps} * environments;
    Learner learner(config, obs, actions);
    Fragment batch = batch_of(steps, environments);
    for (int i = 0; i < 10; ++i) learner.update(&batch);  // fills a circular buffer
    int64_t updates = 0, passes = 0;
    const double updates_s = rate(seconds, [&] {
      passes += learner.update(&batch).grad_updates;
      ++updates;
    });
    const double passes_an_update = static_cast<double>(passes) / static_cast<double>(updates);
    TorchModule module(learner.spec(), initial_parameters(learner.spec(), 1), Executor::native, threads);
    Optimizer optimizer(learner.spec(), 1e-8, 40.0);
    const torch::Tensor rows = torch::randn({int64_t{steps + 1} * environments, kObs});
    const double module_s = rate(seconds, [&] {
      module.zero_gradients();
      const ModuleOutput out = module.forward(rows);
      torch::autograd::backward({out.action_dist_inputs, out.values},
                                {torch::ones_like(out.action_dist_inputs), torch::ones_like(out.values)});
      if (optimizer.step(module.parameters(), module.gradients(), 0.0) == Optimizer::Outcome::skipped) std::abort();
    });
    fmt::print("{:>10} {:>6} {:>6} {:>12.1f} {:>14.0f} {:>10.2f} {:>18.1f}\n", steps * environments, steps,
               environments, updates_s, updates_s * steps * environments, passes_an_update,
               100.0 * (1.0 - passes_an_update * updates_s / module_s));
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string algorithm = "ppo";
  if (argc > 1 && std::isdigit(static_cast<unsigned char>(argv[1][0])) == 0) {
    algorithm = argv[1];
    --argc;
    ++argv;
  }
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const double seconds = argc > 2 ? std::atof(argv[2]) : 0.5;
  at::set_num_threads(threads);
  fmt::print("kernels {}, threads {}\n", native_kernels().isa, threads);
  if (algorithm == "impala") return sequence_rates("IMPALA", threads, seconds), 0;
  if (algorithm == "appo") return sequence_rates("APPO", threads, seconds), 0;
  fmt::print("{:>10} {:>9} {:>12} {:>12} {:>12} {:>14} {:>8}\n", "hidden", "minibatch", "native /s", "torch /s",
             "plain /s", "native rows/s", "x plain");
  for (const int hidden : {64, 256})
    for (const int64_t n : {64, 128, 256, 2048, 16384}) {
      const double native = myriad_rate(Executor::native, hidden, n, threads, seconds);
      const double torch = myriad_rate(Executor::torch, hidden, n, threads, seconds);
      const double plain = plain_rate(hidden, n, seconds);
      fmt::print("{:>10} {:>9} {:>12.1f} {:>12.1f} {:>12.1f} {:>14.0f} {:>8.2f}\n", fmt::format("2x{}", hidden), n,
                 native, torch, plain, native * static_cast<double>(n), native / plain);
    }
}
