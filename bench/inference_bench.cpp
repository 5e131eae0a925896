// inference_bench: what a policy's forward pass costs on one core, in the runner's EigenPolicy and in libtorch, which
// has the same parameters and no autograd.
//
//   build/bench/inference_bench [seconds a case = 1]
//
// "torch" is the torch executor's operators (pictures with channels last), "planes" the same on pictures [n, channels,
// height, width] with weights laid out for that beforehand. Times are medians of 9 rounds in which all take turns, of
// the thread's CPU time. GFLOP/s are EigenPolicy's multiplications and additions; "apart" is the largest difference of
// an output from torch's.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <time.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

#include "env_runners/eigen_policy.hpp"
#include "env_runners/policy_kernels.hpp"
#include "learners/module/torch_layers.hpp"
#include "rl/overloaded.hpp"

using namespace myriad;

namespace {

double now() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Seconds of one call of each.
std::vector<double> measure(const std::vector<std::function<void()>>& calls, double seconds) {
  constexpr size_t kRounds = 9;
  std::vector<std::vector<double>> rounds(calls.size());
  for (const auto& call : calls) call();
  for (size_t round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < calls.size(); ++i) {
      const double start = now();
      double elapsed = 0, count = 0;
      for (; elapsed < seconds / kRounds; ++count, elapsed = now() - start) calls[i]();
      rounds[i].push_back(elapsed / count);
    }
  std::vector<double> medians;
  for (std::vector<double>& of : rounds) {
    std::ranges::sort(of);
    medians.push_back(of[kRounds / 2]);
  }
  return medians;
}

/// The policy's part of a presets's spec on planes, as one writes it on libtorch.
class Planes {
 public:
  Planes(const ModuleSpec& spec, const std::vector<at::Tensor>& tensors) : encoder_(spec.network("encoder").layers) {
    size_t next = 0;
    for (const Layer& layer : encoder_) {
      const size_t count = tensors_of(layer).size();
      for (size_t i = 0; i < count; ++i) weights_.push_back(tensors[next++]);
      if (std::holds_alternative<Conv2d>(layer))
        weights_[next - 2] = weights_[next - 2].permute({0, 3, 1, 2}).contiguous();
    }
    weights_.push_back(tensors[next]), weights_.push_back(tensors[next + 1]);
  }

  at::Tensor operator()(const at::Tensor& obs) const {  // [n, channels, height, width], or rows
    at::Tensor x = obs;
    std::vector<at::Tensor> open;
    size_t next = 0;
    const auto linear = [&] {
      next += 2;
      return at::linear(x.flatten(1), weights_[next - 2], weights_[next - 1]);
    };
    for (const Layer& layer : encoder_)
      x = std::visit(
          Overloaded{[&](const Linear&) { return linear(); },
                     [&](const Activate& l) { return l.activation == Activation::tanh ? at::tanh(x) : at::relu(x); },
                     [&](const Scale& l) { return x * l.factor; },
                     [&](const Conv2d& l) {
                       next += 2;
                       return at::conv2d(x, weights_[next - 2], weights_[next - 1], l.stride, l.padding);
                     },
                     [&](const MaxPool2d& l) { return at::max_pool2d(x, l.kernel, l.stride, l.padding); },
                     [&](const ResidualBegin&) {
                       open.push_back(x);
                       return x;
                     },
                     [&](const ResidualEnd&) {
                       const at::Tensor sum = x + open.back();
                       open.pop_back();
                       return sum;
                     },
                     [&](const auto&) { return x; }},
          layer);
    return linear();
  }

 private:
  std::vector<Layer> encoder_;
  std::vector<at::Tensor> weights_;
};

double flops_of(const ModuleSpec& spec) {
  double flops = 0;
  const auto add = [&](const std::string&, const Layer& layer) {
    std::visit(
        Overloaded{[&](const Linear& l) { flops += 2.0 * l.inputs * l.outputs; },
                   [&](const Conv2d& l) { flops += 2.0 * static_cast<double>(l.output_size()) * l.patch_size(); },
                   [](const auto&) {}},
        layer);
  };
  for_each_layer(spec.inference_part(), add, [](int) {});
  return flops;
}

struct Case {
  const char* name;
  const char* encoder;
  std::vector<int> shape;
};

void run(const Case& c, double seconds) {
  ModelConfig config;
  config.fcnet_hiddens = {64, 64};
  config.encoder = c.encoder;
  config.vf_share_layers = true;
  const ModuleSpec spec = make_module_spec(Space::box(0, 255, c.shape, DType::u8), Space::discrete(6), config);
  const std::vector<float> values = initial_parameters(spec, 1);
  const at::Tensor flat = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::ranges::copy(values, flat.mutable_data_ptr<float>());
  const std::vector<at::Tensor> tensors = parameter_views(spec, flat);
  const std::vector<TorchLayer> layers = layers_of(spec);
  const Planes planes(spec, tensors);
  EigenPolicy policy(spec);
  policy.load(values);
  for (const int64_t n : {1, 8, 64}) {
    const at::Tensor obs = at::randint(0, 256, {n, spec.obs_size}, at::kFloat);
    at::Tensor pictures = obs;
    if (c.shape.size() == 3)
      pictures = obs.view({n, c.shape[0], c.shape[1], c.shape[2]}).permute({0, 3, 1, 2}).contiguous();
    std::vector<float> out(static_cast<size_t>(n * policy.num_outputs()));
    const auto ours = [&] { policy.forward(obs.const_data_ptr<float>(), static_cast<size_t>(n), out.data()); };
    const auto torch = [&] { return run_layers(spec, layers, tensors, obs).action_dist_inputs; };
    const auto best = measure({ours, [&] { torch(); }, [&] { planes(pictures); }}, seconds);
    const float apart =
        (torch() - at::from_blob(out.data(), {n, policy.num_outputs()}, at::kFloat)).abs().max().item<float>();
    fmt::print("{:>14} {:>6} {:>11.1f} {:>11.1f} {:>11.1f} {:>9.1f} {:>9.2f} {:>9.1e}\n", c.name, n, 1e6 * best[0],
               1e6 * best[1], 1e6 * best[2], 1e-9 * flops_of(spec) * static_cast<double>(n) / best[0],
               best[0] / std::min(best[1], best[2]), static_cast<double>(apart));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1.0;
  at::set_num_threads(1);
  const c10::InferenceMode inference;
  fmt::print("kernels {}, one thread, CPU time\n{:>14} {:>6} {:>11} {:>11} {:>11} {:>9} {:>9} {:>9}\n",
             policy_kernels().isa, "module", "batch", "eigen us", "torch us", "planes us", "GFLOP/s", "x torch",
             "apart");
  for (const Case& c :
       {Case{"mlp 4-64-64", "mlp", {4}}, Case{"minatar_cnn", "minatar_cnn", {10, 10, 4}},
        Case{"nature_cnn", "nature_cnn", {84, 84, 4}}, Case{"impala_resnet", "impala_resnet", {84, 84, 4}}})
    run(c, seconds);
}
