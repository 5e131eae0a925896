#include "learners/native/native_module.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "learners/native/worker_threads.hpp"
#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

constexpr size_t kSamples = kPanel;
constexpr size_t kLanes = 8;                 // fixed, because the lanes decide the order of summation
constexpr size_t kWorthSharing = 4'000'000;  // multiply-adds: some 40 us, several times what waking a thread costs

NativeActivation native(Activation f) { return static_cast<NativeActivation>(f); }
static_assert(static_cast<int>(NativeActivation::elu) == static_cast<int>(Activation::elu));

constexpr std::string_view kEncoder = "encoder", kValueEncoder = "vf_encoder";

/// What a head reads.
std::string_view encoder_of(const ModuleSpec& spec, std::string_view head) {
  return head == kValueNetwork && spec.find(kValueEncoder) ? kValueEncoder : kEncoder;
}

bool is_known(const Layer& layer) {
  return std::visit(
      []<class L>(const L&) {
        return std::is_same_v<L, Linear> || std::is_same_v<L, Activate> || std::is_same_v<L, LayerNorm> ||
               std::is_same_v<L, Scale> || std::is_same_v<L, ChannelsLast> || std::is_same_v<L, Conv2d> ||
               std::is_same_v<L, MaxPool2d> || std::is_same_v<L, ResidualBegin> || std::is_same_v<L, ResidualEnd>;
      },
      layer);
}

NativeWindows windows_of(const Conv2d& l) {
  return {l.height, l.width, l.inputs, l.kernel, l.stride, l.padding, l.output_width(), l.output_height()};
}
NativeWindows windows_of(const MaxPool2d& l) {
  return {l.height, l.width, l.channels, l.kernel, l.stride, l.padding, l.output_width(), l.output_height()};
}

bool convolves(const ModuleSpec& spec) {
  return std::ranges::any_of(spec.networks, [](const Network& network) {
    return std::ranges::any_of(network.layers, [](const Layer& l) { return std::holds_alternative<Conv2d>(l); });
  });
}

/// Calls visit(output, input) for each row of a panel, which is one feature of 64 samples.
template <class Visit>
void each_moved(const ChannelsLast& l, Visit visit) {
  const auto pixels = static_cast<size_t>(l.height) * static_cast<size_t>(l.width);
  const auto channels = static_cast<size_t>(l.channels), depth = static_cast<size_t>(l.depth);
  for (size_t pixel = 0, output = 0; pixel < pixels; ++pixel)
    for (size_t channel = 0; channel < channels; ++channel)
      for (size_t d = 0; d < depth; ++d, ++output)
        visit(output * kSamples, ((channel * pixels + pixel) * depth + d) * kSamples);
}

}  // namespace

/// One layer, with its place among the parameters and in a chunk's activations.
struct NativeModule::Step {
  Layer layer;
  int inputs = 0, outputs = 0;
  size_t weight = 0, bias = 0;         // floats from the start of the parameters
  size_t input_at = 0, output_at = 0;  // floats a sample into the network's activations; 0 = the observation
  size_t begun_at = 0;                 // of a ResidualEnd: its block's input
  bool first_trained = false;          // no parameters before it
};

struct NativeModule::Trunk {
  std::vector<Step> steps;
  int obs_offset = 0, obs_size = 0;  // the features of an observation that it sees
  float factor = 1.0f;               // they are scaled by
  int channels = 1;                  // [channels, pixels] that become [pixels, channels]
  size_t width = 0;                  // floats a sample keeps
  size_t features_at = 0;
  int features = 0, widest = 1;
  size_t num_open = 0;         // residual blocks inside each other
  size_t multiplications = 0;  // of a sample
  AlignedVector activations;   // [panel][layer][feature, sample in panel]
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

std::string NativeModule::obstacle(const ModuleSpec& spec) {
  if (!spec.is_q_network() && spec.find(kValueNetwork) == nullptr) return "a policy without a value";
  for (const Network& network : spec.networks) {
    const bool encodes = network.name == kEncoder || network.name == kValueEncoder;
    const bool is_head = network.name == kPolicyNetwork || network.name == kValueNetwork;
    const std::string_view input = encodes ? kObsInput : encoder_of(spec, network.name);
    const bool is_linear = network.layers.size() == 1 && std::holds_alternative<Linear>(network.layers[0]);
    if (!(encodes || (is_head && is_linear)) || !network.reads_only(input)) return "the network " + network.name;
    for (const Layer& layer : network.layers) {
      const bool first = &layer == network.layers.data();
      if (!is_known(layer) && !(first && std::holds_alternative<Select>(layer)))
        return fmt::format("a layer of kind {}", kind_of(layer));
    }
  }
  return "";
}

bool NativeModule::pays(const ModuleSpec& spec) {
  constexpr int kLargestRow = 32'768;
  return std::ranges::all_of(spec.networks, [](const Network& network) {
    return std::ranges::all_of(network.layers, [](const Layer& layer) {
      return std::max(inputs_of(layer), outputs_of(layer)) <= kLargestRow || !is_on_picture(layer);
    });
  });
}

NativeModule::NativeModule(const ModuleSpec& spec, int threads, const NativeKernels& kernels)
    : spec_(spec),
      threads_(std::max(1, threads)),
      k_(kernels),
      num_parameters_(spec.num_parameters()),
      num_inference_(spec.num_inference_parameters()),
      inputs_size_(inputs_size(spec.distribution)),
      parts_(action_parts(spec.distribution)),
      has_value_head_(!spec.is_q_network()),
      chunk_(convolves(spec) ? kSamples : 4 * kSamples) {
  if (!supports(spec))
    fail(Exit::usage, "impossible", "learners.executor 'native' cannot train {}; 'torch' and 'auto' can",
         obstacle(spec));
  size_t offset = 0;
  const auto head = [&](std::string_view network) {
    const auto& l = std::get<Linear>(spec.network(network).layers[0]);
    const Head h{offset, offset + static_cast<size_t>(l.inputs) * static_cast<size_t>(l.outputs), l.inputs, l.outputs};
    offset = h.bias + static_cast<size_t>(l.outputs);
    return h;
  };
  add_network(spec.network(kEncoder).layers, offset);
  policy_ = head(kPolicyNetwork);
  log_std_at_ = offset;
  for (const ActionPart& part : parts_) {
    const DiagGaussian* gaussian = gaussian_of(part.distribution);
    has_state_log_std_ |= gaussian != nullptr && !gaussian->free_log_std;
    offset += static_cast<size_t>(part.num_log_std);
  }
  if (has_value_head_) {
    if (const Network* encoder = spec.find(kValueEncoder)) add_network(encoder->layers, offset);
    value_ = head(kValueNetwork);
  }
  check(offset == num_parameters_, "the native module has {} parameters, its spec {}", offset, num_parameters_);
  check(policy_.inputs == networks_.front().features &&
            (!has_value_head_ || (value_.inputs == networks_.back().features && value_.outputs == 1)),
        "a head does not fit its encoder");
  for (const Trunk& network : networks_) multiplications_ += network.multiplications;
  scratch_.resize(static_cast<size_t>(threads_));
  for (Scratch& s : scratch_)
    for (const Trunk& network : networks_) {
      s.a.resize(std::max(s.a.size(), kSamples * static_cast<size_t>(network.widest)));
      s.b.resize(s.a.size());
      s.value.resize(kSamples);
      s.head.resize(kSamples * static_cast<size_t>(inputs_size_));
      s.activations.resize(std::max(s.activations.size(), kSamples * network.width));
      s.saved.resize(std::max(s.saved.size(), kSamples * network.num_open * static_cast<size_t>(network.widest)));
      for (const Step& step : network.steps)
        if (const auto* l = std::get_if<Conv2d>(&step.layer))
          s.room.resize(std::max(s.room.size(), kSamples * static_cast<size_t>(l->patch_size())));
    }
  if (threads_ > 1) workers_ = std::make_unique<WorkerThreads>(threads_ - 1);
}

NativeModule::~NativeModule() = default;

void NativeModule::add_network(const std::vector<Layer>& layers, size_t& offset) {
  Trunk network;
  std::span<const Layer> rest = layers;
  network.obs_size = spec_.obs_size;
  if (const auto* select = layers.empty() ? nullptr : std::get_if<Select>(&layers[0])) {
    network.obs_offset = select->offset;
    network.obs_size = select->size;
    rest = rest.subspan(1);
  }
  // Layers that only bring observations into shape are done as they are packed.
  for (; !rest.empty(); rest = rest.subspan(1)) {
    const auto* moved = std::get_if<ChannelsLast>(&rest[0]);
    if (const auto* l = std::get_if<Scale>(&rest[0]); l && network.factor == 1.0f)
      network.factor = l->factor;
    else if (moved && moved->depth == 1 && network.channels == 1)
      network.channels = moved->channels;
    else
      break;
  }
  int size = network.obs_size;
  const auto place = [&](int outputs) {
    return std::exchange(network.width, network.width + static_cast<size_t>(outputs));
  };
  size_t at = place(size);   // the observation
  bool trained = false;      // a layer so far
  bool kept = false;         // what lies at `at` is wanted by the layer before, or by a residual block
  std::vector<size_t> open;  // where the inputs of residual blocks lie
  for (const Layer& layer : rest) {
    check(inputs_of(layer) == size, "a layer takes {} features and gets {}", inputs_of(layer), size);
    Step step{.layer = layer, .inputs = size, .outputs = outputs_of(layer), .weight = offset, .input_at = at};
    const size_t count = num_parameters_of(layer);
    step.bias = offset + count - (count == 0 ? 0 : static_cast<size_t>(tensors_of(layer).back().shape[0]));
    step.first_trained = count > 0 && !std::exchange(trained, true);
    offset += count;
    const auto* activate = std::get_if<Activate>(&layer);
    const auto* convolution = std::get_if<Conv2d>(&layer);
    network.multiplications +=
        count * static_cast<size_t>(convolution ? convolution->output_height() * convolution->output_width() : 1);
    // Where backward does not need the input, the output takes its place.
    const bool begins = std::holds_alternative<ResidualBegin>(layer), ends = std::holds_alternative<ResidualEnd>(layer);
    const bool by_output =
        activate && activate->activation != Activation::silu && activate->activation != Activation::gelu;
    const bool in_place = begins || (!kept && (by_output || ends || std::holds_alternative<Scale>(layer)));
    at = step.output_at = in_place ? at : place(step.outputs);
    if (begins) open.push_back(at);
    if (ends) step.begun_at = open.back(), open.pop_back();
    network.num_open = std::max(network.num_open, open.size());
    kept = begins || activate || std::holds_alternative<MaxPool2d>(layer);
    size = step.outputs;
    network.widest = std::max({network.widest, step.inputs, size});
    network.steps.push_back(std::move(step));
  }
  network.features = size;
  network.features_at = at;
  networks_.push_back(std::move(network));
}

size_t NativeModule::lanes() const { return std::min(kLanes, (call_.n + chunk_ - 1) / chunk_); }

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

void NativeModule::forward(const float* parameters, ObsRows obs, size_t n, float* action_dist_inputs, float* values) {
  call_ = {.parameters = parameters, .obs = obs, .n = n, .action_dist_inputs = action_dist_inputs, .values = values};
  const size_t samples = (n + kSamples - 1) / kSamples * kSamples;
  for (Trunk& network : networks_)
    if (network.activations.size() < samples * network.width) network.activations.resize(samples * network.width);
  if (has_state_log_std_) raw_.resize(n * static_cast<size_t>(inputs_size_));
  if (!has_value_head_) best_.resize(n);
  run(networks_.size() * lanes(), n * multiplications_, &NativeModule::forward_task);
}

/// The parameters of networks [first, first + networks) and their heads.
Range NativeModule::range_of(size_t first, size_t networks) const {
  return {first == 0 ? 0 : num_inference_, first + networks == networks_.size() ? num_parameters_ : num_inference_};
}

void NativeModule::backward(const float* parameters, const float* d_action_dist_inputs, const float* d_values,
                            float* gradient, const std::function<void(Range)>& finished) {
  check(call_.n != 0, "backward() without a forward()");
  call_.parameters = parameters;
  call_.d_action_dist_inputs = d_action_dist_inputs;
  call_.d_values = d_values;
  call_.gradient = gradient;
  const size_t count = lanes();
  while (lane_gradients_.size() + 1 < count) lane_gradients_.emplace_back(num_parameters_);
  const size_t step = finished ? 1 : networks_.size();
  for (size_t first = networks_.size(); first > 0;) {
    first -= step;
    call_.first = first;
    call_.networks = step;
    const Range range = range_of(first, step);
    run(step * count, 2 * call_.n * multiplications_ * step / networks_.size(), &NativeModule::backward_task);
    for (size_t lane = 1; lane < count; ++lane)
      k_.add(lane_gradient(lane) + range.begin, gradient + range.begin, range.count());
    if (finished) finished(range);
  }
}

void NativeModule::values(const float* parameters, ObsRows obs, size_t n, float* values) {
  const Call kept = std::exchange(call_, {.parameters = parameters, .obs = obs, .n = n, .values = values});
  run(lanes(), n * multiplications_ / networks_.size(), &NativeModule::values_task);
  call_ = kept;
}

template <class Visit>
void NativeModule::each_panel(size_t lane, Visit visit) const {
  for (size_t chunk = lane * chunk_; chunk < call_.n; chunk += lanes() * chunk_)
    for (size_t start = chunk; start < std::min(chunk + chunk_, call_.n); start += kSamples)
      visit(start, std::min(kSamples, call_.n - start));
}

void NativeModule::pack(const Trunk& network, size_t start, size_t count, float* panel) const {
  const int size = network.obs_size / network.channels, n = static_cast<int>(count), row = spec_.obs_size;
  const size_t first = start * static_cast<size_t>(row) + static_cast<size_t>(network.obs_offset);
  for (int channel = 0; channel < network.channels; ++channel, panel += kSamples) {
    const size_t at = first + static_cast<size_t>(channel) * static_cast<size_t>(size);
    if (call_.obs.bytes != nullptr)
      k_.pack_bytes(call_.obs.bytes + at, n, size, row, network.factor, panel, network.channels);
    else
      k_.pack(call_.obs.floats + at, n, size, row, network.factor, panel, network.channels);
  }
}

const float* NativeModule::features_of(const Trunk& network, size_t start, size_t count, float* activations) const {
  pack(network, start, count, activations);
  const float* x = activations;
  const int n = static_cast<int>(count);
  for (const Step& s : network.steps) {
    float* y = activations + s.output_at * kSamples;
    const float *weight = call_.parameters + s.weight, *bias = call_.parameters + s.bias;
    const size_t floats = kSamples * static_cast<size_t>(s.outputs);
    std::visit(Overloaded{[&](const Linear&) { k_.linear(weight, bias, x, n, s.inputs, s.outputs, y); },
                          [&](const Activate& l) { k_.activate(native(l.activation), x, y, floats); },
                          [&](const LayerNorm&) { k_.layer_norm(weight, bias, x, n, s.outputs, y); },
                          [&](const Conv2d& l) { k_.convolve(windows_of(l), weight, bias, x, n, l.outputs, y); },
                          [&](const MaxPool2d& l) { k_.max_pool(windows_of(l), x, y); },
                          [&](const Scale& l) {
                            if (y != x) std::copy_n(x, floats, y);
                            k_.scale(l.factor, y, floats);
                          },
                          [&](const ChannelsLast& l) {
                            each_moved(l, [&](size_t to, size_t from) { std::copy_n(x + from, kSamples, y + to); });
                          },
                          [&](const ResidualEnd&) {
                            if (y != x) std::copy_n(x, floats, y);
                            k_.add(activations + s.begun_at * kSamples, y, floats);
                          },
                          [](const auto&) {}},
               s.layer);
    x = y;
  }
  return x;
}

void NativeModule::policy_head(const float* features, size_t start, size_t count, AlignedVector& head) {
  const size_t width = static_cast<size_t>(inputs_size_);
  const float* log_std = call_.parameters + log_std_at_;
  const float clip = spec_.log_std_clip;
  k_.linear(call_.parameters + policy_.weight, call_.parameters + policy_.bias, features, static_cast<int>(count),
            policy_.inputs, policy_.outputs, head.data());
  for (size_t i = 0; i < count; ++i) {
    float* out = call_.action_dist_inputs + (start + i) * width;
    for (const ActionPart& part : parts_)
      for (int j = 0; j < part.num_outputs; ++j)
        out[part.input + j] = head[static_cast<size_t>(part.output + j) * kSamples + i];
    if (!has_value_head_) {
      best_[start + i] = best_of(head, start, i);
      call_.values[start + i] = out[best_[start + i]];
    }
    if (has_state_log_std_) std::copy_n(out, width, raw_.data() + (start + i) * width);
    for (const ActionPart& part : parts_)
      if (const DiagGaussian* gaussian = gaussian_of(part.distribution)) {
        float* deviations = out + part.input + gaussian->n;
        if (gaussian->free_log_std) std::copy_n(log_std + part.log_std, gaussian->n, deviations);
        for (int j = 0; j < gaussian->n; ++j) deviations[j] = std::clamp(deviations[j], -clip, clip);
      }
    for (const ActionPart& part : parts_)
      for (int j = 0; j < part.num_choices; ++j)
        if (is_masked(start + i, part.choice + j)) out[part.input + j] = kMaskedLogit;
  }
}

bool NativeModule::is_masked(size_t sample, int choice) const {
  if (spec_.mask_offset < 0) return false;
  const size_t at = sample * static_cast<size_t>(spec_.obs_size) + static_cast<size_t>(spec_.mask_offset + choice);
  return call_.obs.bytes != nullptr ? call_.obs.bytes[at] == 0 : call_.obs.floats[at] == 0.0f;
}

/// d(head output) [head outputs, 64]; adds the gradient of free log stds.
void NativeModule::policy_head_gradient(size_t start, size_t count, AlignedVector& head, float* gradient) const {
  const size_t width = static_cast<size_t>(inputs_size_);
  const float* d = call_.d_action_dist_inputs + start * width;
  for (const ActionPart& part : parts_) {
    float* own = head.data() + static_cast<size_t>(part.output) * kSamples;
    k_.pack(d + part.input, static_cast<int>(count), part.num_outputs, inputs_size_, 1.0f, own, 1);
    for (size_t i = 0; i < count && spec_.mask_offset >= 0; ++i)
      for (int j = 0; j < part.num_choices; ++j)
        if (is_masked(start + i, part.choice + j)) own[static_cast<size_t>(j) * kSamples + i] = 0.0f;
  }
  for (size_t i = 0; i < count && !has_value_head_; ++i)
    head[static_cast<size_t>(best_[start + i]) * kSamples + i] += call_.d_values[start + i];
  const auto inside = [&](float log_std) { return std::abs(log_std) <= spec_.log_std_clip; };  // else the clip stops it
  for (const ActionPart& part : parts_) {
    const DiagGaussian* gaussian = gaussian_of(part.distribution);
    if (gaussian == nullptr) continue;
    const auto g = static_cast<size_t>(gaussian->n), input = static_cast<size_t>(part.input) + g,
               output = static_cast<size_t>(part.output) + g, log_std = log_std_at_ + static_cast<size_t>(part.log_std);
    for (size_t i = 0; i < count; ++i)
      for (size_t j = 0; j < g; ++j) {
        if (!gaussian->free_log_std) {
          if (!inside(raw_[(start + i) * width + input + j])) head[(output + j) * kSamples + i] = 0.0f;
        } else if (inside(call_.parameters[log_std + j])) {
          gradient[log_std + j] += d[i * width + input + j];
        }
      }
  }
}

void NativeModule::value_head(const float* features, size_t start, size_t count, Scratch& scratch) const {
  k_.linear(call_.parameters + value_.weight, call_.parameters + value_.bias, features, static_cast<int>(count),
            value_.inputs, 1, scratch.value.data());
  std::copy_n(scratch.value.data(), count, call_.values + start);
}

/// Of a Q-network: V(s) = max_a Q(s, a).
void NativeModule::greedy_values(const float* features, size_t start, size_t count, AlignedVector& head) const {
  k_.linear(call_.parameters + policy_.weight, call_.parameters + policy_.bias, features, static_cast<int>(count),
            policy_.inputs, policy_.outputs, head.data());
  for (size_t i = 0; i < count; ++i)
    call_.values[start + i] = head[static_cast<size_t>(best_of(head, start, i)) * kSamples + i];
}

/// The greatest of the outputs of sample start + i that its mask allows, of head [outputs, 64]; of all, where the mask
/// allows none: the last one of an episode may.
int NativeModule::best_of(const AlignedVector& head, size_t start, size_t i) const {
  const auto value = [&](int j) { return head[static_cast<size_t>(j) * kSamples + i]; };
  int best = -1, best_allowed = -1;
  for (int j = 0; j < policy_.outputs; ++j) {
    if (best < 0 || value(j) > value(best)) best = j;
    if (!is_masked(start + i, j) && (best_allowed < 0 || value(j) > value(best_allowed))) best_allowed = j;
  }
  return best_allowed < 0 ? best : best_allowed;
}

void NativeModule::trunk_backward(const Trunk& network, const float* activations, int n, float* gradient,
                                  Scratch& scratch) const {
  float* d = scratch.a.data();  // gradient of the features, replaced layer by layer
  float* spare = scratch.b.data();
  float* saved = scratch.saved.data();  // of open residual blocks
  for (auto s = network.steps.rbegin(); s != network.steps.rend(); ++s) {
    const float* x = activations + s->input_at * kSamples;
    const float* y = activations + s->output_at * kSamples;
    const float* weight = call_.parameters + s->weight;
    float *d_weight = gradient + s->weight, *d_bias = gradient + s->bias, *dx = s->first_trained ? nullptr : spare;
    const size_t floats = kSamples * static_cast<size_t>(s->outputs);
    std::visit(
        Overloaded{[&](const Linear&) {
                     k_.linear_backward(weight, x, d, n, s->inputs, s->outputs, d_weight, d_bias, dx);
                     std::swap(d, spare);
                   },
                   [&](const Activate& l) { k_.activate_backward(native(l.activation), x, y, d, floats); },
                   [&](const LayerNorm&) { k_.layer_norm_backward(weight, x, n, s->outputs, d_weight, d_bias, d); },
                   [&](const Conv2d& l) {
                     k_.convolve_backward(windows_of(l), weight, x, d, n, l.outputs, scratch.room.data(), d_weight,
                                          d_bias, dx);
                     std::swap(d, spare);
                   },
                   [&](const MaxPool2d& l) {
                     k_.max_pool_backward(windows_of(l), x, y, d, spare);
                     std::swap(d, spare);
                   },
                   [&](const Scale& l) { k_.scale(l.factor, d, floats); },
                   [&](const ChannelsLast& l) {
                     each_moved(l, [&](size_t from, size_t to) { std::copy_n(d + from, kSamples, spare + to); });
                     std::swap(d, spare);
                   },
                   [&](const ResidualEnd&) { saved = std::copy_n(d, floats, saved); },
                   [&](const ResidualBegin&) {
                     saved -= floats;
                     k_.add(saved, d, floats);
                   },
                   [](const auto&) {}},
        s->layer);
    if (s->first_trained) return;
  }
}

void NativeModule::forward_task(size_t task, size_t thread) {
  const size_t index = task % networks_.size();
  Trunk& network = networks_[index];
  each_panel(task / networks_.size(), [&](size_t start, size_t count) {
    const float* features = features_of(network, start, count, network.activations.data() + start * network.width);
    if (index == 0) policy_head(features, start, count, scratch_[thread].head);
    if (has_value_head_ && index + 1 == networks_.size()) value_head(features, start, count, scratch_[thread]);
  });
}

void NativeModule::values_task(size_t task, size_t thread) {
  Scratch& scratch = scratch_[thread];
  each_panel(task, [&](size_t start, size_t count) {
    const float* features = features_of(networks_.back(), start, count, scratch.activations.data());
    if (has_value_head_)
      value_head(features, start, count, scratch);
    else
      greedy_values(features, start, count, scratch.head);
  });
}

void NativeModule::backward_task(size_t task, size_t thread) {
  const size_t index = call_.first + task % call_.networks, lane = task / call_.networks;
  const bool policy = index == 0, value = has_value_head_ && index + 1 == networks_.size();
  const Trunk& network = networks_[index];
  Scratch& scratch = scratch_[thread];
  float* gradient = lane_gradient(lane);
  if (lane != 0) {
    const Range range = range_of(index, 1);
    std::fill(gradient + range.begin, gradient + range.end, 0.0f);
  }
  each_panel(lane, [&](size_t start, size_t count) {
    const float* activations = network.activations.data() + start * network.width;
    const float* features = activations + network.features_at * kSamples;
    float* d_features = network.features_at == 0 ? nullptr : scratch.a.data();
    const int n = static_cast<int>(count);
    if (policy) {
      policy_head_gradient(start, count, scratch.head, gradient);
      k_.linear_backward(call_.parameters + policy_.weight, features, scratch.head.data(), n, policy_.inputs,
                         policy_.outputs, gradient + policy_.weight, gradient + policy_.bias, d_features);
    }
    if (value) {
      float* d_value_features = policy && d_features ? scratch.b.data() : d_features;
      k_.pack(call_.d_values + start, static_cast<int>(count), 1, 1, 1.0f, scratch.value.data(), 1);
      k_.linear_backward(call_.parameters + value_.weight, features, scratch.value.data(), n, value_.inputs, 1,
                         gradient + value_.weight, gradient + value_.bias, d_value_features);
      if (policy && d_features) k_.add(d_value_features, d_features, kSamples * static_cast<size_t>(network.features));
    }
    if (d_features) trunk_backward(network, activations, n, gradient, scratch);
  });
}

}  // namespace myriad
