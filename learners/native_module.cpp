#include "learners/native_module.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "learners/worker_threads.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kChunk = 256;  // samples; 256 columns of 256 floats are 256 KiB: a layer's input and output fit L2
constexpr size_t kLanes = 8;    // fixed, because the lanes decide the order of summation
constexpr size_t kObs = std::numeric_limits<size_t>::max();
constexpr size_t kWorthSharing = 4'000'000;  // multiply-adds: some 40 us, several times what waking a thread costs

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

NativeActivation native(Activation f) { return static_cast<NativeActivation>(f); }
static_assert(static_cast<int>(NativeActivation::elu) == static_cast<int>(Activation::elu));

}  // namespace

/// One layer, with its place among the parameters and in a chunk's activations.
struct NativeModule::Step {
  enum class Kind { linear, activate, layer_norm } kind;
  NativeActivation activation = NativeActivation::linear;
  int inputs = 0, outputs = 0;
  size_t weight = 0, bias = 0;         // floats from the start of the parameters
  size_t input_at = 0, output_at = 0;  // floats a sample into the network's activations; kObs = the observation
};

struct NativeModule::Network {
  std::vector<Step> steps;
  size_t width = 0;  // floats a sample keeps
  int features = 0, widest = 1;
  AlignedVector activations;  // [chunk][layer][sample in chunk, feature]
};

const NativeKernels& native_kernels() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  static const NativeKernels& best = __builtin_cpu_supports("x86-64-v4")   ? native_kernels_v4()
                                     : __builtin_cpu_supports("x86-64-v3") ? native_kernels_v3()
                                                                           : native_kernels_v2();
  return best;
#else
  return native_kernels_v2();
#endif
}

NativeModule::NativeModule(const ModuleSpec& spec, int threads, const NativeKernels& kernels)
    : spec_(spec),
      threads_(std::max(1, threads)),
      k_(kernels),
      num_parameters_(spec.num_parameters()),
      num_inference_(spec.num_inference_parameters()),
      inputs_size_(inputs_size(spec.distribution)) {
  size_t offset = 0;
  const auto head = [&](const Linear& l) {
    const Head h{offset, offset + static_cast<size_t>(l.inputs) * static_cast<size_t>(l.outputs), l.inputs, l.outputs};
    offset = h.bias + static_cast<size_t>(l.outputs);
    return h;
  };
  add_network(spec.encoder, offset);
  policy_ = head(spec.action_head);
  if (const auto* gaussian = std::get_if<DiagGaussian>(&spec.distribution)) {
    gaussian_ = gaussian->n;
    free_log_std_ = gaussian->free_log_std;
    log_std_at_ = offset;
    if (free_log_std_) offset += static_cast<size_t>(gaussian_);
  }
  if (!spec.shares_encoder) add_network(spec.value_encoder, offset);
  value_ = head(spec.value_head);
  check(offset == num_parameters_, "the native module has {} parameters, its spec {}", offset, num_parameters_);
  check(
      policy_.inputs == networks_.front().features && value_.inputs == networks_.back().features && value_.outputs == 1,
      "a head does not fit its encoder");
  scratch_.resize(static_cast<size_t>(threads_));
  for (Scratch& s : scratch_)
    for (const Network& network : networks_) {
      s.a.resize(std::max(s.a.size(), kChunk * static_cast<size_t>(network.widest)));
      s.b.resize(s.a.size());
      s.head.resize(kChunk * static_cast<size_t>(inputs_size_));
      s.activations.resize(std::max(s.activations.size(), kChunk * network.width));
    }
  if (threads_ > 1) workers_ = std::make_unique<WorkerThreads>(threads_ - 1);
}

NativeModule::~NativeModule() = default;

void NativeModule::add_network(const std::vector<Layer>& layers, size_t& offset) {
  Network network;
  size_t at = kObs;
  int size = spec_.obs_size;
  const auto place = [&](int outputs) {
    return std::exchange(network.width, network.width + static_cast<size_t>(outputs));
  };
  for (const Layer& layer : layers) {
    const bool after_activation = !network.steps.empty() && network.steps.back().kind == Step::Kind::activate;
    Step step = std::visit(
        Overloaded{[&](const Linear& l) {
                     check(l.inputs == size, "a layer takes {} features and gets {}", l.inputs, size);
                     const size_t bias = offset + static_cast<size_t>(l.inputs) * static_cast<size_t>(l.outputs);
                     return Step{Step::Kind::linear, {}, l.inputs, l.outputs, offset, bias, at, place(l.outputs)};
                   },
                   [&](const Activate& l) {
                     // Where backward needs the output only, the output takes the input's place.
                     const bool in_place = at != kObs && !after_activation && l.activation != Activation::silu &&
                                           l.activation != Activation::gelu;
                     return Step{Step::Kind::activate,         native(l.activation), l.size, l.size, 0, 0, at,
                                 in_place ? at : place(l.size)};
                   },
                   [&](const LayerNorm& l) {
                     return Step{
                         Step::Kind::layer_norm, {}, l.size, l.size, offset, offset + static_cast<size_t>(l.size), at,
                         place(l.size)};
                   }},
        layer);
    check(step.inputs == size, "a layer takes {} features and gets {}", step.inputs, size);
    if (step.kind != Step::Kind::activate) offset = step.bias + static_cast<size_t>(step.outputs);
    at = step.output_at;
    size = step.outputs;
    network.widest = std::max(network.widest, size);
    network.steps.push_back(step);
  }
  network.features = size;
  networks_.push_back(std::move(network));
}

size_t NativeModule::lanes() const { return std::min(kLanes, (call_.n + kChunk - 1) / kChunk); }

float* NativeModule::lane_gradient(size_t lane) {
  return lane == 0 ? call_.gradient : lane_gradients_[lane - 1].data();
}

void NativeModule::run(size_t tasks, size_t multiplications, Task task) {
  if (threads_ == 1 || tasks == 1 || multiplications < kWorthSharing) {
    for (size_t i = 0; i < tasks; ++i) (this->*task)(i, 0);
    return;
  }
  std::atomic<size_t> next{0};
  workers_->run([&](size_t thread) {
    for (size_t i = next++; i < tasks; i = next++) (this->*task)(i, thread);
  });
}

void NativeModule::forward(const float* parameters, const float* obs, size_t n, float* action_dist_inputs,
                           float* values) {
  call_ = {.parameters = parameters, .obs = obs, .n = n, .action_dist_inputs = action_dist_inputs, .values = values};
  for (Network& network : networks_)
    if (network.activations.size() < n * network.width) network.activations.resize(n * network.width);
  if (gaussian_ != 0 && !free_log_std_) raw_.resize(n * static_cast<size_t>(inputs_size_));
  run(networks_.size() * lanes(), n * num_parameters_, &NativeModule::forward_task);
}

void NativeModule::backward(const float* parameters, const float* d_action_dist_inputs, const float* d_values,
                            float* gradient) {
  check(call_.obs != nullptr, "backward() without a forward()");
  call_.parameters = parameters;
  call_.d_action_dist_inputs = d_action_dist_inputs;
  call_.d_values = d_values;
  call_.gradient = gradient;
  const size_t count = lanes();
  while (lane_gradients_.size() + 1 < count) lane_gradients_.emplace_back(num_parameters_);
  run(networks_.size() * count, 2 * call_.n * num_parameters_, &NativeModule::backward_task);
  for (size_t lane = 1; lane < count; ++lane) k_.add(lane_gradient(lane), gradient, num_parameters_);
}

void NativeModule::values(const float* parameters, const float* obs, size_t n, float* values) {
  const Call kept = std::exchange(call_, {.parameters = parameters, .obs = obs, .n = n, .values = values});
  run(lanes(), n * num_parameters_ / networks_.size(), &NativeModule::values_task);
  call_ = kept;
}

const float* NativeModule::features_of(const Network& network, size_t start, int columns, float* activations) const {
  const float* obs = call_.obs + start * static_cast<size_t>(spec_.obs_size);
  const float* x = obs;
  for (const Step& s : network.steps) {
    float* y = activations + s.output_at * static_cast<size_t>(columns);
    switch (s.kind) {
      case Step::Kind::linear:
        k_.linear(call_.parameters + s.weight, call_.parameters + s.bias, x, columns, s.inputs, s.outputs, y);
        break;
      case Step::Kind::activate:
        k_.activate(s.activation, x, y, static_cast<size_t>(columns) * static_cast<size_t>(s.outputs));
        break;
      case Step::Kind::layer_norm:
        k_.layer_norm(call_.parameters + s.weight, call_.parameters + s.bias, x, columns, s.outputs, y);
        break;
    }
    x = y;
  }
  return x;
}

void NativeModule::policy_head(const float* features, size_t start, int columns, AlignedVector& head) {
  const size_t width = static_cast<size_t>(inputs_size_), g = static_cast<size_t>(gaussian_),
               count = static_cast<size_t>(columns);
  float* out = call_.action_dist_inputs + start * width;
  const float* w = call_.parameters + policy_.weight;
  const float* b = call_.parameters + policy_.bias;
  const float clip = spec_.log_std_clip;
  if (gaussian_ == 0) return k_.linear(w, b, features, columns, policy_.inputs, policy_.outputs, out);
  float* means = free_log_std_ ? head.data() : &raw_[start * width];
  k_.linear(w, b, features, columns, policy_.inputs, policy_.outputs, means);
  const float* log_std = call_.parameters + log_std_at_;
  const size_t stride = static_cast<size_t>(policy_.outputs);
  for (size_t i = 0; i < count; ++i)
    for (size_t j = 0; j < g; ++j) {
      out[i * width + j] = means[i * stride + j];
      out[i * width + g + j] = std::clamp(free_log_std_ ? log_std[j] : means[i * stride + g + j], -clip, clip);
    }
}

/// d(head output) [columns, head outputs]; adds a free log std's gradient.
const float* NativeModule::policy_head_gradient(size_t start, int columns, AlignedVector& head, float* gradient) const {
  const size_t width = static_cast<size_t>(inputs_size_), g = static_cast<size_t>(gaussian_),
               count = static_cast<size_t>(columns);
  const float* d = call_.d_action_dist_inputs + start * width;
  if (gaussian_ == 0) return d;
  const auto inside = [&](float log_std) { return std::abs(log_std) <= spec_.log_std_clip; };  // else the clip stops it
  for (size_t i = 0; i < count; ++i)
    for (size_t j = 0; j < g; ++j) {
      const float d_log_std = d[i * width + g + j];
      if (free_log_std_) {
        head[i * g + j] = d[i * width + j];
        if (inside(call_.parameters[log_std_at_ + j])) gradient[log_std_at_ + j] += d_log_std;
      } else {
        head[i * width + j] = d[i * width + j];
        head[i * width + g + j] = inside(raw_[(start + i) * width + g + j]) ? d_log_std : 0.0f;
      }
    }
  return head.data();
}

void NativeModule::trunk_backward(const Network& network, size_t start, int columns, float* gradient,
                                  Scratch& scratch) const {
  const float* activations = network.activations.data() + start * network.width;
  const float* obs = call_.obs + start * static_cast<size_t>(spec_.obs_size);
  float* d = scratch.a.data();  // gradient of the features, replaced layer by layer
  float* spare = scratch.b.data();
  for (auto s = network.steps.rbegin(); s != network.steps.rend(); ++s) {
    const float* x = s->input_at == kObs ? obs : activations + s->input_at * static_cast<size_t>(columns);
    const float* y = activations + s->output_at * static_cast<size_t>(columns);
    switch (s->kind) {
      case Step::Kind::linear:
        k_.linear_backward(call_.parameters + s->weight, x, d, columns, s->inputs, s->outputs, gradient + s->weight,
                           gradient + s->bias, s->input_at == kObs ? nullptr : spare);
        std::swap(d, spare);
        break;
      case Step::Kind::activate:
        k_.activate_backward(s->activation, x, y, d, static_cast<size_t>(columns) * static_cast<size_t>(s->outputs));
        break;
      case Step::Kind::layer_norm:
        k_.layer_norm_backward(call_.parameters + s->weight, x, columns, s->outputs, gradient + s->weight,
                               gradient + s->bias, d);
        break;
    }
  }
}

void NativeModule::forward_task(size_t task, size_t thread) {
  const size_t index = task % networks_.size(), stride = lanes() * kChunk;
  Network& network = networks_[index];
  for (size_t start = task / networks_.size() * kChunk; start < call_.n; start += stride) {
    const int columns = static_cast<int>(std::min(kChunk, call_.n - start));
    const float* features = features_of(network, start, columns, network.activations.data() + start * network.width);
    if (index == 0) policy_head(features, start, columns, scratch_[thread].head);
    if (index + 1 == networks_.size())
      k_.linear(call_.parameters + value_.weight, call_.parameters + value_.bias, features, columns, value_.inputs, 1,
                call_.values + start);
  }
}

void NativeModule::values_task(size_t task, size_t thread) {
  for (size_t start = task * kChunk; start < call_.n; start += lanes() * kChunk) {
    const int columns = static_cast<int>(std::min(kChunk, call_.n - start));
    const float* features = features_of(networks_.back(), start, columns, scratch_[thread].activations.data());
    k_.linear(call_.parameters + value_.weight, call_.parameters + value_.bias, features, columns, value_.inputs, 1,
              call_.values + start);
  }
}

void NativeModule::backward_task(size_t task, size_t thread) {
  const size_t index = task % networks_.size(), lane = task / networks_.size(), stride = lanes() * kChunk;
  const bool policy = index == 0, value = index + 1 == networks_.size();
  Network& network = networks_[index];
  Scratch& scratch = scratch_[thread];
  float* gradient = lane_gradient(lane);
  if (lane != 0)
    std::fill(gradient + (policy ? 0 : num_inference_), gradient + (value ? num_parameters_ : num_inference_), 0.0f);
  for (size_t start = lane * kChunk; start < call_.n; start += stride) {
    const int columns = static_cast<int>(std::min(kChunk, call_.n - start));
    const float* features = network.steps.empty() ? call_.obs + start * static_cast<size_t>(spec_.obs_size)
                                                  : network.activations.data() + start * network.width +
                                                        network.steps.back().output_at * static_cast<size_t>(columns);
    float* d_features = network.steps.empty() ? nullptr : scratch.a.data();
    if (policy) {
      const float* d = policy_head_gradient(start, columns, scratch.head, gradient);
      k_.linear_backward(call_.parameters + policy_.weight, features, d, columns, policy_.inputs, policy_.outputs,
                         gradient + policy_.weight, gradient + policy_.bias, d_features);
    }
    if (value) {
      float* d_value_features = policy && d_features ? scratch.b.data() : d_features;
      k_.linear_backward(call_.parameters + value_.weight, features, call_.d_values + start, columns, value_.inputs, 1,
                         gradient + value_.weight, gradient + value_.bias, d_value_features);
      if (policy && d_features)
        k_.add(d_value_features, d_features, static_cast<size_t>(columns) * static_cast<size_t>(network.features));
    }
    if (d_features) trunk_backward(network, start, columns, gradient, scratch);
  }
}

}  // namespace myriad
