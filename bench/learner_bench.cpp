// learner_bench: what an update costs, for HalfCheetah's shapes: the native and the torch executor, the same written
// plainly on libtorch's modules, operators and optimizer, and what the core could calculate at best, all in turn in one
// run, so that what else runs on the machine meets all of them.
//
//   build/bench/learner_bench [ppo | impala | appo | limit] [threads = 1] [seconds a case = 1]
//
//   ppo     one minibatch: forward, loss, backward, clipping, Adam
//   impala  a whole Learner::update of a batch [T, N];  appo: the same, which has no plain counterpart here
//   limit   the core's limit alone
//
// Times are medians of rounds: with one thread of its CPU time, so that a core shared with others does not count, with
// more of wall time. FLOPs of an update are 3 x those of the forward pass of all linear layers of both networks; "peak"
// is a loop of fused multiply-adds on registers, "GEMM" Eigen's product of 1,024 x 1,024 floats. "module" is the native
// module's forward and backward and Adam alone.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <time.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "algorithms/ppo.hpp"
#include "bench/arithmetic_limit.hpp"
#include "bench/example_batch.hpp"
#include "learners/learner.hpp"
#include "learners/native/native_module.hpp"
#include "learners/native/optimizer.hpp"
#include "rl/algorithm_info.hpp"

using namespace myriad;

namespace {

const std::vector<std::vector<int>> kNetworks{{64, 64}, {256, 256}, {1024, 1024, 1024}};
constexpr std::array kBatches{std::pair{16, 4}, std::pair{32, 8}, std::pair{64, 32}, std::pair{64, 256}};  // T, N

struct Options {
  int threads = 1;
  double seconds = 1.0;
  double now() const {
    timespec t{};
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
};

using Update = std::function<void()>;

/// Seconds of one call of each, the median of rounds in which they take turns.
std::vector<double> measure(const Options& options, const std::vector<Update>& updates) {
  std::vector<std::vector<double>> rounds(updates.size());
  const double begin = options.now();
  for (const Update& update : updates)
    if (update) update();
  const size_t rounds_wanted = options.now() - begin < options.seconds ? 5 : 3;
  for (size_t round = 0; round < rounds_wanted; ++round)
    for (size_t i = 0; i < updates.size(); ++i) {
      if (!updates[i]) continue;
      const double start = options.now();
      double elapsed = 0, calls = 0;
      for (; elapsed < options.seconds / static_cast<double>(rounds_wanted); ++calls, elapsed = options.now() - start)
        updates[i]();
      rounds[i].push_back(elapsed / calls);
    }
  std::vector<double> medians;
  for (std::vector<double>& of : rounds) {
    std::ranges::sort(of);
    medians.push_back(of.empty() ? 0.0 : of[of.size() / 2]);
  }
  return medians;
}

struct Rates {
  double peak, gemm;  // FLOP/s
};
const std::vector<Update> kLimits{[] { fma_flops(); }, [] { gemm_flops(); }};
Rates limits(const std::vector<double>& medians) { return {fma_flops() / medians[0], gemm_flops() / medians[1]}; }

Config config_of(const std::string& algorithm, const std::vector<int>& hiddens, const Options& options) {
  Config config = load_config(fmt::format("algorithm = '{}'", algorithm), "bench");
  config.rl_module.fcnet_hiddens = hiddens;
  config.learners.num_threads = options.threads;
  config.training.lr = 0.0;  // the policy stays near the behaviour's
  return config;
}

const Space kObsSpace = Space::box(-10, 10, {kObs}), kActionSpace = Space::box(-1, 1, {kActions});

// ---- the same on libtorch, as one writes it first

struct Plain {
  torch::nn::Sequential policy, value;
  torch::Tensor log_std = torch::zeros({kActions}, torch::requires_grad());
  std::vector<torch::Tensor> parameters;
  std::unique_ptr<torch::optim::Adam> optimizer;

  explicit Plain(const std::vector<int>& hiddens) : policy(mlp(hiddens, kActions)), value(mlp(hiddens, 1)) {
    parameters = policy->parameters();
    for (const torch::Tensor& p : value->parameters()) parameters.push_back(p);
    parameters.push_back(log_std);
    optimizer = std::make_unique<torch::optim::Adam>(parameters, torch::optim::AdamOptions(1e-4));
  }
  static torch::nn::Sequential mlp(const std::vector<int>& hiddens, int outputs) {
    torch::nn::Sequential layers;
    int size = kObs;
    for (const int h : hiddens) {
      layers->push_back(torch::nn::Linear(std::exchange(size, h), h));
      layers->push_back(torch::nn::Tanh());
    }
    layers->push_back(torch::nn::Linear(size, outputs));
    return layers;
  }
  static torch::Tensor gaussian_logp(const torch::Tensor& mean, const torch::Tensor& log_std, const torch::Tensor& x) {
    return (-0.5 * ((x - mean) / log_std.exp()).square() - log_std - 0.9189385332).sum(-1);
  }
  void step(const torch::Tensor& loss, double clip) {
    optimizer->zero_grad();
    loss.backward();
    torch::nn::utils::clip_grad_norm_(parameters, clip);
    optimizer->step();
  }
};

Columns minibatch_of(int64_t n) {
  return {{"obs", torch::randn({n, kObs})},  {"actions", torch::randn({n, kActions})},
          {"logp", torch::full({n}, -8.5)},  {"action_dist_inputs", torch::zeros({n, 2 * kActions})},
          {"advantages", torch::randn({n})}, {"value_targets", torch::randn({n})}};
}

void plain_ppo(Plain& m, const Columns& c) {
  const torch::Tensor old_mean = c.at("action_dist_inputs").narrow(1, 0, kActions),
                      old_log_std = c.at("action_dist_inputs").narrow(1, kActions, kActions);
  const torch::Tensor mean = m.policy->forward(c.at("obs")), values = m.value->forward(c.at("obs")).squeeze(-1);
  const torch::Tensor ls = m.log_std.expand_as(mean),
                      ratio = (Plain::gaussian_logp(mean, ls, c.at("actions")) - c.at("logp")).exp();
  const torch::Tensor surrogate = torch::min(ratio * c.at("advantages"), ratio.clamp(0.7, 1.3) * c.at("advantages"));
  const torch::Tensor vf = (values - c.at("value_targets")).square().clamp(0, 10);
  const torch::Tensor entropy = (ls + 1.4189385332).sum(-1);
  const torch::Tensor kl =
      (ls - old_log_std + ((2 * old_log_std).exp() + (old_mean - mean).square()) / (2 * (2 * ls).exp()) - 0.5).sum(-1);
  m.step((-surrogate + vf - 0.0 * entropy + 0.2 * kl).mean(), 0.5);
}

/// Tensors [T, N, ...], V-trace step by step; an episode's end of either kind counts as terminal, which saves it
/// final_obs.
void plain_impala(Plain& m, const Columns& c) {
  const torch::Tensor obs = c.at("obs"), values = m.value->forward(obs).squeeze(-1);  // [T+1, N]
  const int64_t steps = obs.size(0) - 1;
  const torch::Tensor mean = m.policy->forward(obs.narrow(0, 0, steps)), ls = m.log_std.expand_as(mean);
  const torch::Tensor logp = Plain::gaussian_logp(mean, ls, c.at("actions"));
  torch::Tensor targets, advantages;
  {
    const torch::NoGradGuard no_grad;
    const torch::Tensor rho = (logp - c.at("logp")).exp().clamp_max(1.0), discounts = 0.99 * (1.0 - c.at("ends"));
    const torch::Tensor now = values.narrow(0, 0, steps), next = values.narrow(0, 1, steps);
    const torch::Tensor deltas = rho * (c.at("rewards") + discounts * next - now);
    torch::Tensor correction = torch::zeros_like(now[0]);
    std::vector<torch::Tensor> corrections(static_cast<size_t>(steps));
    for (int64_t t = steps; t-- > 0;)
      corrections[static_cast<size_t>(t)] = correction = deltas[t] + discounts[t] * rho[t] * correction;
    targets = torch::stack(corrections) + now;
    advantages = rho * (c.at("rewards") +
                        discounts * torch::cat({targets.narrow(0, 1, steps - 1), values.narrow(0, steps, 1)}) - now);
  }
  const torch::Tensor entropy = (ls + 1.4189385332).sum(-1);
  m.step((-logp * advantages + 0.25 * (values.narrow(0, 0, steps) - targets).square() - 0.0 * entropy).sum(), 40.0);
}

// ---- ours

/// The native executor, or torch's, as its trainer has it.
struct Ours {
  std::unique_ptr<Algorithm> algorithm;
  ModuleSpec spec;
  std::vector<TorchLayer> layers;
  NativeModule module;
  Optimizer optimizer;
  at::Tensor parameters, gradient;
  std::vector<at::Tensor> views;

  Ours(const Config& config, int threads)
      : algorithm(make_algorithm(config)),
        spec(policy_and_value(kObsSpace, kActionSpace, config)),
        layers(layers_of(spec)),
        module(spec, threads),
        optimizer(spec, 1e-8, 0.5),
        parameters(at::tensor(initial_parameters(spec, 1))),
        gradient(at::zeros_like(parameters)) {
    for (const at::Tensor& view : parameter_views(spec, parameters))
      views.push_back(view.detach().set_requires_grad(true));
    const std::vector<at::Tensor> gradients = parameter_views(spec, gradient);
    for (size_t i = 0; i < views.size(); ++i) views[i].mutable_grad() = gradients[i];
  }

  static std::span<float> floats_of(const at::Tensor& x) {
    return {x.mutable_data_ptr<float>(), static_cast<size_t>(x.numel())};
  }
  void step() {
    if (optimizer.step(floats_of(parameters), floats_of(gradient), 1e-4) == Optimizer::Outcome::skipped) std::abort();
  }
  void native(const Columns& minibatch) {
    const at::Tensor& obs = minibatch.at("obs");
    const ModuleOutput out = forward(obs);
    const HostLoss loss = dynamic_cast<const SampleLosses&>(*algorithm).sample_loss(spec, out, minibatch);
    backward(loss.d_inputs, loss.d_values);
  }
  void torch(const Columns& minibatch) {
    gradient.zero_();
    Columns columns = minibatch;
    for (const auto& [name, value] : algorithm->coefficients()) columns[name] = at::scalar_tensor(value);
    struct Online final : Networks {
      explicit Online(const Ours& o) : Networks(o.spec), ours(o) {}
      ModuleOutput forward(Parameters, const at::Tensor& obs) override {
        return run_layers(spec(), ours.layers, ours.views, obs);
      }
      std::vector<at::Tensor> outputs(Parameters, const Names&, const NetworkInputs&) override { return {}; }
      const Ours& ours;
    } networks(*this);
    algorithm->loss(networks, columns).total.backward();
    step();
  }
  ModuleOutput forward(const at::Tensor& obs) {
    const ModuleOutput out{at::empty({obs.size(0), inputs_size(spec.distribution)}), at::empty({obs.size(0)})};
    module.forward(floats_of(parameters).data(), obs.const_data_ptr<float>(), static_cast<size_t>(obs.size(0)),
                   floats_of(out.action_dist_inputs).data(), floats_of(out.values).data());
    return out;
  }
  void backward(const at::Tensor& d_inputs, const at::Tensor& d_values) {
    gradient.zero_();
    module.backward(floats_of(parameters).data(), d_inputs.const_data_ptr<float>(), d_values.const_data_ptr<float>(),
                    floats_of(gradient).data());
    step();
  }
};

/// The updates of one row of the table: native, torch, plain, module; empty where there is none.
std::vector<Update> updates_of(const std::string& algorithm, const std::vector<int>& hiddens, int steps,
                               int environments, const Options& options, double& passes) {
  Config config = config_of(algorithm, hiddens, options);
  config.training.train_batch_size = int64_t{steps} * environments;
  const bool ppo = algorithm == "PPO";
  const int64_t n = int64_t{steps} * environments, rows = ppo ? n : n + environments;
  const auto ours = std::make_shared<Ours>(config, options.threads);
  const auto plain = std::make_shared<Plain>(hiddens);
  const torch::Tensor obs = torch::randn({rows, kObs});
  const torch::Tensor d_inputs = torch::ones({rows, 2 * kActions}), d_values = torch::ones({rows});
  const Update module = [=] {
    ours->forward(obs);
    ours->backward(d_inputs, d_values);
  };
  if (ppo) {
    const Columns minibatch = minibatch_of(n);
    return {[=] { ours->native(minibatch); }, [=] { ours->torch(minibatch); }, [=] { plain_ppo(*plain, minibatch); },
            module};
  }
  const auto batch = std::make_shared<Fragment>(batch_of(steps, environments));
  const auto learner = [&](const char* executor) {
    config.learners.executor = executor;
    const auto made = std::make_shared<Learner>(config, kObsSpace, kActionSpace);
    for (int i = 0; i < 10; ++i)
      passes = static_cast<double>(made->update(batch.get()).grad_updates);  // fills a circular buffer
    return Update([=] { made->update(batch.get()); });
  };
  const std::vector<Update> whole{learner("native"), learner("torch")};
  if (algorithm == "APPO") return {whole[0], whole[1], nullptr, module};
  const Columns columns{{"obs", torch::randn({steps + 1, environments, kObs})},
                        {"actions", torch::randn({steps, environments, kActions})},
                        {"logp", torch::full({steps, environments}, -8.5)},
                        {"rewards", torch::randn({steps, environments})},
                        {"ends", (torch::rand({steps, environments}) < 0.01).to(torch::kFloat)}};
  return {whole[0], whole[1], [=] { plain_impala(*plain, columns); }, module};
}

void table(const std::string& algorithm, const Options& options) {
  fmt::print("{:>7} {:>6} {:>11} {:>11} {:>11} {:>11} {:>10} {:>9} {:>8} {:>7} {:>7} {:>6} {:>6} {:>7}\n", "network",
             "batch", "native us", "torch us", "plain us", "updates/s", "samples/s", "module us", "GFLOP/s", "peak",
             "GEMM", "% peak", "% GEMM", "x plain");
  for (const std::vector<int>& hiddens : kNetworks)
    for (const auto& [steps, environments] : kBatches) {
      double passes = 1;
      std::vector<Update> updates = updates_of(algorithm, hiddens, steps, environments, options, passes);
      updates.insert(updates.begin(), kLimits.begin(), kLimits.end());
      const std::vector<double> s = measure(options, updates);
      const Rates limit = limits(s);
      const double native = s[2], torch = s[3], plain = s[4], n = static_cast<double>(steps) * environments;
      const double flops = 3.0 * forward_flops(hiddens) * n * passes / native;
      fmt::print(
          "{:>7} {:>6} {:>11.1f} {:>11.1f} {:>11.1f} {:>11.1f} {:>10.0f} {:>9.1f} {:>8.1f} {:>7.1f} {:>7.1f} {:>6.1f} "
          "{:>6.1f} {:>7.2f}\n",
          fmt::format("{}x{}", hiddens.size(), hiddens[0]), steps * environments, 1e6 * native, 1e6 * torch,
          1e6 * plain, 1 / native, n / native, 1e6 * s[5] * passes, 1e-9 * flops, 1e-9 * limit.peak, 1e-9 * limit.gemm,
          100 * flops / limit.peak, 100 * flops / limit.gemm, plain / native);
      std::fflush(stdout);
    }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "ppo";
  const Options options{argc > 2 ? std::atoi(argv[2]) : 1, argc > 3 ? std::atof(argv[3]) : 1.0};
  at::set_num_threads(options.threads);
  fmt::print("kernels {}, threads {}, {} time\n", native_kernels().isa, options.threads,
             options.threads == 1 ? "CPU" : "wall");
  if (what == "limit") {
    const Rates limit = limits(measure(options, kLimits));
    fmt::print("peak {:.1f} GFLOP/s, Eigen's GEMM {:.1f} GFLOP/s, of one core\n", 1e-9 * limit.peak, 1e-9 * limit.gemm);
    return 0;
  }
  const std::map<std::string, std::string> algorithms{{"ppo", "PPO"}, {"impala", "IMPALA"}, {"appo", "APPO"}};
  const auto found = algorithms.find(what);
  if (found == algorithms.end())
    return fmt::print("learner_bench [ppo | impala | appo | limit] [threads] [seconds]\n"), 2;
  table(found->second, options);
}
