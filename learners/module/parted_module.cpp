#include "learners/module/parted_module.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "learners/module/autocast.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

at::Tensor piece_of(const at::Tensor& tensor, size_t begin, Range range) {
  return tensor.narrow(0, static_cast<int64_t>(range.begin - begin), static_cast<int64_t>(range.count()));
}

}  // namespace

at::Tensor gathered(const Placement& placement, DeviceGroup* group, const at::Tensor& home, Range range) {
  if (!placement.parameters_in_parts) return piece_of(home, 0, range);
  const at::Tensor all = at::empty({static_cast<int64_t>(range.count())}, home.options());
  for (uint32_t part = 0; part < placement.partition.parts; ++part) {
    const Range here = placement.partition.range(part).overlap(range);
    if (here.count() == 0) continue;
    const at::Tensor to = piece_of(all, range.begin, here);
    if (part == placement.part) to.copy_(piece_of(home, placement.own().begin, here));
    group->broadcast(to, part);
  }
  return all;
}

/// One layer as one operation, with parameters that are there only while it runs.
struct PartedModule::LayerFunction : torch::autograd::Function<LayerFunction> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static at::Tensor forward(Context* context, const at::Tensor& /*anchor*/, const at::Tensor& x, PartedModule* module,
                            const TorchLayer* layer, const at::Tensor* home) {
    context->save_for_backward({x});
    context->saved_data["module"] = reinterpret_cast<int64_t>(module);
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    context->saved_data["x"] = x.requires_grad();
    context->saved_data["autocast"] = Autocast::is_on(x.device().type());
    if (const TrainingPass::Rows* rows = TrainingPass::current()) {
      context->saved_data["share"] = rows->share;
      context->saved_data["counted"] = rows->counted;
    }
    return layer->function(x, module->tensors_of(*layer, *home));
  }

  static List backward(Context* context, List d) {
    auto* module = reinterpret_cast<PartedModule*>(context->saved_data["module"].toInt());
    const auto* layer = reinterpret_cast<const TorchLayer*>(context->saved_data["layer"].toInt());
    const bool needs_x = context->saved_data["x"].toBool();
    const at::Tensor x = context->get_saved_variables()[0].detach().set_requires_grad(needs_x);
    List inputs, gradients;
    {
      const at::AutoGradMode record(true);
      const Autocast autocast(x.device().type(), context->saved_data["autocast"].toBool());
      std::optional<TrainingPass> training;
      if (context->saved_data.count("share") > 0)
        training.emplace(
            TrainingPass::Rows{context->saved_data["share"].toDouble(), context->saved_data["counted"].toInt()});
      for (const at::Tensor& tensor : module->tensors_of(*layer, module->parameters_))
        inputs.push_back(tensor.detach().set_requires_grad(true));
      const at::Tensor y = layer->function(x, inputs);
      if (needs_x) inputs.push_back(x);
      gradients = torch::autograd::grad({y}, inputs, {d[0]});
    }
    size_t bytes = 0;
    for (size_t i = 0; i < layer->count; ++i) bytes += gradients[i].nbytes();
    module->peak_.gradient_bytes = std::max(module->peak_.gradient_bytes, bytes);
    for (size_t i = 0; i < layer->count; ++i)
      module->give(module->list_[layer->first + i], std::exchange(gradients[i], at::Tensor()));
    return {{}, needs_x ? gradients.back() : at::Tensor(), {}, {}, {}};
  }
};

PartedModule::PartedModule(const ModuleSpec& spec, const Placement& placement, DeviceGroup& group,
                           const at::Tensor& parameters, const at::Tensor& gradient)
    : spec_(spec),
      list_(spec.parameters()),
      layers_(layers_of(spec)),
      placement_(placement),
      group_(group),
      parameters_(parameters),
      gradient_(gradient) {
  check(static_cast<size_t>(parameters.numel()) == placement.num_parameters() &&
            static_cast<size_t>(gradient.numel()) == placement.num_gradients(),
        "{} parameters and {} gradients, want {} and {}", parameters.numel(), gradient.numel(),
        placement.num_parameters(), placement.num_gradients());
  anchor_ = at::zeros({}, parameters.options()).set_requires_grad(true);
}

std::vector<at::Tensor> PartedModule::tensors_of(const TorchLayer& layer, const at::Tensor& home) {
  const at::Tensor flat = gathered(placement_, &group_, home, layer.range);
  if (placement_.parameters_in_parts) peak_.fetched_bytes = std::max(peak_.fetched_bytes, flat.nbytes());
  return parameter_views(std::span(list_).subspan(layer.first, layer.count), flat);
}

/// Sums a tensor's gradient at the shards it belongs to.
void PartedModule::give(const Parameter& tensor, at::Tensor gradient) {
  gradient = gradient.contiguous().flatten();
  const Range range{tensor.offset, tensor.offset + tensor.count}, own = placement_.own();
  for (uint32_t part = 0; part < placement_.partition.parts; ++part) {
    const Range here = placement_.partition.range(part).overlap(range);
    if (here.count() == 0) continue;
    const at::Tensor sum = piece_of(gradient, range.begin, here);
    group_.reduce(sum, part);
    if (part == placement_.part) piece_of(gradient_, own.begin, here).add_(sum);
  }
}

ModuleOutput PartedModule::run(const at::Tensor& home, const at::Tensor& obs) {
  return run_layers(spec_, layers_, obs, [&](const TorchLayer& layer, const at::Tensor& x) {
    return LayerFunction::apply(anchor_, x, this, &layer, &home);
  });
}

ModuleOutput PartedModule::forward(const at::Tensor& obs) { return run(parameters_, obs); }

ModuleOutput PartedModule::infer(const at::Tensor& parameters, const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  return run(parameters, obs);
}

at::Tensor PartedModule::idle_rows() const { return at::zeros({1, spec_.obs_size}, parameters_.options()); }

void PartedModule::idle_pass() {
  const ModuleOutput out = forward(idle_rows());
  at::Tensor sum = out.action_dist_inputs.sum();
  if (out.values.defined()) sum = sum + out.values.sum();
  (sum * 0.0).backward();
}

void PartedModule::idle_infer(const at::Tensor& parameters) {
  if (placement_.parameters_in_parts) infer(parameters, idle_rows());
}

}  // namespace myriad
