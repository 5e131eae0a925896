#include "apps/learner/learner_files.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>

#include "rl/check.hpp"
#include "rl/module_json.hpp"
#include "rl/observation_parts.hpp"

namespace myriad {
namespace {

constexpr const char* kOptimizer = "learner_group/optimizer.safetensors";  // of checkpoints without parts
constexpr const char* kState = "learner_group/state.safetensors";
constexpr std::string_view kPending = "pending_batch";

TensorMap read_tensors(Files& files, const std::string& directory, const std::string& name) {
  try {
    return decode_safetensors(files.read(directory + "/" + name), directory + "/" + name);
  } catch (const FileError& error) {
    fail(Exit::usage, "corrupt-file", "{}/{}: {}", directory, name, std::strerror(error.error));
  }
}

Tensor scalar(uint64_t value) { return Tensor::of(std::vector<int64_t>{static_cast<int64_t>(value)}, {1}); }

std::string part_name(uint32_t part, uint32_t parts) {
  return fmt::format("learner_group/optimizer-{:04}-of-{:04}.safetensors", part, parts);
}

/// The number of parts the optimizer's state was saved in; 0: one file without a number.
uint32_t saved_parts(Files& files, const std::string& directory) {
  for (const std::string& name : files.list(directory + "/learner_group")) {
    unsigned part = 0, parts = 0;
    if (std::sscanf(name.c_str(), "optimizer-%u-of-%u.safetensors", &part, &parts) == 2 && parts > 0) return parts;
  }
  return 0;
}

/// The optimizer's whole state out of its parts.
TensorMap read_optimizer(Files& files, const std::string& directory) {
  const uint32_t parts = saved_parts(files, directory);
  if (parts == 0) return read_tensors(files, directory, kOptimizer);
  TensorMap whole = read_tensors(files, directory, part_name(0, parts).c_str());
  for (uint32_t part = 1; part < parts; ++part) {
    const std::string name = part_name(part, parts);
    const TensorMap tensors = read_tensors(files, directory, name.c_str());
    for (const char* column : {"exp_avg", "exp_avg_sq"}) {
      const auto to = whole.find(column);
      const auto from = tensors.find(column), offset = tensors.find("offset");
      if (to == whole.end() || from == tensors.end() || offset == tensors.end() ||
          offset->second.i64() != std::vector<int64_t>{static_cast<int64_t>(to->second.bytes.size() / sizeof(float))})
        fail(Exit::usage, "foreign-checkpoint", "{}/{} does not go on where the part before it ends", directory, name);
      to->second.bytes.insert(to->second.bytes.end(), from->second.bytes.begin(), from->second.bytes.end());
      to->second.shape = {to->second.bytes.size() / sizeof(float)};
    }
  }
  return whole;
}

/// The batch's columns under their names, as [rows, bytes of a row], and what is not in them. Episodes: a row each.
TensorMap pending_tensors(Fragment& batch, const LearnerCore::WriteCheckpoint& request, size_t first_environment) {
  TensorMap tensors;
  for (const Column& column : batch.layout().columns()) {
    const size_t rows = column.rows == Rows::final_step ? batch.final_rows : batch.layout().rows(column);
    const std::byte* begin = batch.row(column, 0);
    tensors["columns/" + column.name] = {DType::u8, {rows, column.row_bytes}, {begin, begin + rows * column.row_bytes}};
  }
  std::vector<double> rows;
  for (const wire::Episode& e : request.batch_episodes)
    rows.insert(rows.end(), {e.episode_return(), static_cast<double>(e.length()), static_cast<double>(e.env_index()),
                             static_cast<double>(e.level())});
  tensors["episodes"] = Tensor::of(rows, {request.batch_episodes.size(), 4});
  tensors["first_environment"] = scalar(first_environment);
  tensors["num_environments"] = scalar(static_cast<uint64_t>(batch.layout().environments()));
  tensors["weights_version"] = scalar(batch.weights_version);
  return tensors;
}

/// One shard's part of the batch that waited, as it was saved.
struct PendingPart {
  std::string path;
  TensorMap tensors;
  size_t first = 0, count = 0;  // environments of the whole batch
  size_t next_final_row = 0;

  const Tensor& tensor(const std::string& name) const {
    const auto it = tensors.find(name);
    if (it == tensors.end()) fail(Exit::usage, "foreign-checkpoint", "{} has no {}", path, name);
    return it->second;
  }
  uint64_t number(const char* name) const {
    const auto values = tensor(name).i64();
    return values.empty() || values[0] < 0 ? 0 : static_cast<uint64_t>(values[0]);
  }
  /// `rows` of the column, checked.
  const std::byte* column(const Column& column, size_t rows) const {
    const Tensor& values = tensor("columns/" + column.name);
    if (values.shape.size() != 2 || values.shape[1] != column.row_bytes)
      fail(Exit::usage, "foreign-checkpoint",
           "{}: column {} has rows of {} bytes, this run's of {}: it was saved by another version of Myriad "
           "or of another environment",
           path, column.name, values.shape.size() == 2 ? values.shape[1] : 0, column.row_bytes);
    if (values.bytes.size() < rows * column.row_bytes)
      fail(Exit::usage, "foreign-checkpoint", "{}: column {} has {} bytes, this run's batch wants {} rows of {}", path,
           column.name, values.bytes.size(), rows, column.row_bytes);
    return values.bytes.data();
  }
};

std::vector<PendingPart> pending_parts(Files& files, const std::string& directory, size_t all_environments) {
  std::vector<PendingPart> parts;
  for (const std::string& name : files.list(directory + "/learner_group")) {
    if (!name.starts_with(kPending)) continue;
    PendingPart part{fmt::format("{}/learner_group/{}", directory, name), {}};
    part.tensors = read_tensors(files, directory, "learner_group/" + name);
    // Checkpoints from before learner groups have neither.
    part.first = part.tensors.contains("first_environment") ? part.number("first_environment") : 0;
    part.count = part.tensors.contains("num_environments") ? part.number("num_environments") : all_environments;
    parts.push_back(std::move(part));
  }
  std::ranges::sort(parts, {}, &PendingPart::first);
  return parts;
}

/// The environments [first, first + batch's) of the parts, which are those of a batch of `all`.
void copy_pending(std::vector<PendingPart>& parts, size_t first, size_t all, Fragment& batch) {
  const FragmentLayout& layout = batch.layout();
  const auto mine = static_cast<size_t>(layout.environments());
  size_t covered = 0;
  for (PendingPart& part : parts) {
    if (part.first != covered || part.count == 0 || part.count > all - covered)
      fail(Exit::usage, "foreign-checkpoint", "{} has environments {} to {} of a batch of {}, want them from {}",
           part.path, part.first, part.first + part.count, all, covered);
    covered += part.count;
    const size_t begin = std::max(first, part.first), end = std::min(first + mine, part.first + part.count);
    for (const Column& column : layout.columns()) {
      if (column.rows == Rows::final_step || begin >= end) continue;
      const size_t times = layout.rows(column) / mine, run = (end - begin) * column.row_bytes;
      const std::byte* source = part.column(column, times * part.count);
      for (size_t t = 0; t < times; ++t)
        std::copy_n(source + (t * part.count + begin - part.first) * column.row_bytes, run,
                    batch.row(column, t * mine + begin - first));
    }
  }
  if (covered != all)
    fail(Exit::usage, "foreign-checkpoint", "{}: the batch that waits has {} environments, this run's has {}",
         parts.back().path, covered, all);
}

/// final_obs, in order of (time, environment).
void copy_pending_tail(std::vector<PendingPart>& parts, size_t first, Fragment& batch) {
  const FragmentLayout& layout = batch.layout();
  const Column* tail = layout.find("final_obs");
  batch.final_rows = 0;
  if (tail == nullptr) return;
  const Column &truncateds = layout.column("truncateds"), &terminateds = layout.column("terminateds");
  const auto mine = static_cast<size_t>(layout.environments());
  for (size_t t = 0; t < static_cast<size_t>(layout.steps()); ++t)
    for (PendingPart& part : parts) {
      const std::byte* truncated = part.column(truncateds, (t + 1) * part.count) + t * part.count;
      const std::byte* terminated = part.column(terminateds, (t + 1) * part.count) + t * part.count;
      for (size_t e = 0; e < part.count; ++e) {
        if (truncated[e] == std::byte{0} || terminated[e] != std::byte{0}) continue;
        const size_t row = part.next_final_row++;
        if (part.first + e < first || part.first + e >= first + mine) continue;
        std::copy_n(part.column(*tail, row + 1) + row * tail->row_bytes, tail->row_bytes,
                    batch.row(*tail, batch.final_rows++));
      }
    }
}

/// What of a checkpoint's observations this run's are, where they are others: by the paths of their parts.
class MovedFeatures {
 public:
  MovedFeatures(Files& files, std::string directory, const Space& observation_space)
      : files_(files), directory_(std::move(directory)), to_(observation_parts(observation_space)) {
    try {
      const std::string name = directory_ + "/spaces.json";
      from_ = saved_observation_parts(text_of(name), name);
    } catch (const FileError&) { from_ = to_; }  // older checkpoints have none: shapes alone are compared
  }

  /// The weight by which a network reads observations, column by column; 0 where the checkpoint has no such feature.
  /// False for every other tensor, and where the observations are the same.
  bool take_weight(const ModuleSpec& spec, const std::string& name, const Tensor& from, Tensor& to) {
    const auto network = std::ranges::find_if(spec.networks, [&](const Network& n) { return lies_in(name, n.name); });
    if (from_ == to_ || network == spec.networks.end() || !network->reads_only(kObsInput)) return false;
    if (!there_) there_ = saved_module();
    const Network* old = there_->find(network->name);
    const std::optional<Reader> own = reader_of(*network, spec.obs_size),
                                other = old == nullptr ? std::nullopt : reader_of(*old, there_->obs_size);
    if (!own || !other || own->weight != other->weight)
      fail(Exit::usage, "foreign-checkpoint",
           "{} has other observations than this run, and {} does not read them by one layer of weights, whose columns "
           "could be taken by name; rl_module.init_parts says what to take",
           directory_, network->name);
    if (name != own->weight) return false;
    if (from.shape.size() != 2 || from.shape[0] != to.shape[0] || from.shape[1] != other->features.size() ||
        from.dtype != to.dtype)
      return false;  // the caller says that the shapes differ
    const std::vector<float> old_weights = from.f32();
    std::vector<float> weights(to.shape[0] * to.shape[1], 0.0f);
    for (size_t column = 0; column < own->features.size(); ++column) {
      const int feature = features()[static_cast<size_t>(own->features[column])];
      const auto found = std::ranges::find(other->features, feature);
      if (feature < 0 || found == other->features.end()) continue;
      const auto old_column = static_cast<size_t>(found - other->features.begin());
      for (size_t row = 0; row < to.shape[0]; ++row)
        weights[row * to.shape[1] + column] = old_weights[row * from.shape[1] + old_column];
    }
    to = Tensor::of(std::span<const float>(weights), to.shape);
    return true;
  }

  /// The state of a MeanStdFilter. New features begin with mean 0 and variance 1; so that they come to their own soon,
  /// what was counted then is at most `most` rows.
  std::vector<double> filter(const std::vector<double>& from, double most) {
    if (from_ == to_) return from;
    const size_t n = features().size(), old = (from.size() - 1) / 2;
    const double count = std::min(from[0], most);
    std::vector<double> state(1 + 2 * n, 0.0);
    state[0] = count;
    for (size_t i = 0; i < n; ++i) {
      const auto feature = static_cast<size_t>(features()[i]);
      state[1 + i] = features()[i] < 0 ? 0.0 : from.at(1 + feature);
      state[1 + n + i] = features()[i] < 0 ? count : from.at(1 + old + feature) * (count / std::max(from[0], 1.0));
    }
    return state;
  }

 private:
  struct Reader {
    std::string weight;
    std::vector<int> features;  // by column
  };
  static std::optional<Reader> reader_of(const Network& network, int obs_size) {
    std::vector<int> features;
    const auto add = [&](int begin, int size) {
      for (int i = begin; i < begin + size; ++i) features.push_back(i);
    };
    for (size_t i = 0; i < network.layers.size(); ++i) {
      const Layer& layer = network.layers[i];
      if (const auto* select = std::get_if<Select>(&layer)) {
        add(select->offset, select->size);
      } else if (const auto* linear = std::get_if<Linear>(&layer)) {
        if (features.empty()) add(0, obs_size);
        if (static_cast<size_t>(linear->inputs) != features.size()) return std::nullopt;
        return Reader{network.layer_name(i) + ".weight", std::move(features)};
      } else if (!std::holds_alternative<Stream>(layer) && !std::holds_alternative<Concat>(layer)) {
        return std::nullopt;
      }
    }
    return std::nullopt;
  }

  const std::vector<int>& features() {
    if (features_.empty()) features_ = features_by_path(from_, to_);
    return features_;
  }
  ModuleSpec saved_module() {
    try {
      return module_from_json(text_of(directory_ + "/" + kModuleSpecFile));
    } catch (const FileError& error) {
      fail(Exit::usage, "corrupt-file", "{}/{}: {}", directory_, kModuleSpecFile, std::strerror(error.error));
    }
  }
  std::string text_of(const std::string& name) {
    const std::vector<std::byte> bytes = files_.read(name);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  Files& files_;
  std::string directory_;
  std::vector<ObservationPart> from_, to_;
  std::optional<ModuleSpec> there_;
  std::vector<int> features_;  // of from_, by feature of to_
};

using Write = std::function<void(const std::string& name, std::span<const std::byte> bytes)>;

void write_replicated(const Write& write, const LearnerCore::WriteCheckpoint& request, const Learner& learner,
                      const LearnerState& state) {
  TensorMap counters = state.scalars;
  counters["training_iteration"] = scalar(request.training_iteration);
  counters["num_env_steps_sampled_lifetime"] = scalar(request.num_env_steps_sampled_lifetime);
  write(kModuleFile, encode_safetensors(state.module, {{"module", learner.spec().to_string()}}));
  const std::string structure = to_json(learner.spec());
  write(kModuleSpecFile, std::as_bytes(std::span(structure)));
  write(kConnectorsFile, encode_safetensors(state.connectors));
  write(kState, encode_safetensors(counters));
}

}  // namespace

std::vector<CheckpointFile> save_learner(Files& files, const LearnerCore::WriteCheckpoint& request,
                                         const Learner& learner, size_t first_place, BatchAssembler& assembler) {
  std::vector<CheckpointFile> written;
  const auto write = [&](const std::string& name, std::span<const std::byte> bytes) {
    written.push_back(write_checkpoint_file(files, request.directory, name, bytes));
  };
  const LearnerState state = learner.state();
  const bool first = learner.rank() == 0;
  if (first || learner.num_parts() > 1)
    write(part_name(learner.parts().front(), learner.num_parts()), encode_safetensors(state.optimizer));
  if (first) write_replicated(write, request, learner, state);
  if (request.with_batch)
    write(fmt::format("learner_group/{}-{:06}.safetensors", kPending, first_place),
          encode_safetensors(pending_tensors(assembler.pending(request.batch_weights_version), request,
                                             first_place * assembler.environments_of_place())));
  for (const SavedRunner& runner : request.runners)
    write(fmt::format("env_runners/slot-{:04}.safetensors", runner.slot), runner.state.view);
  return written;
}

LearnerCounters load_learner(Files& files, const std::string& directory, Learner& learner) {
  LearnerState state;
  state.module = read_tensors(files, directory, kModuleFile);
  state.optimizer = read_optimizer(files, directory);
  state.connectors = read_tensors(files, directory, kConnectorsFile);
  state.scalars = read_tensors(files, directory, kState);
  const auto take = [&](const char* name) {
    const auto node = state.scalars.extract(name);
    if (node.empty() || node.mapped().i64().size() != 1)
      fail(Exit::usage, "foreign-checkpoint", "{}/{} has no {}", directory, kState, name);
    return static_cast<uint64_t>(node.mapped().i64()[0]);
  };
  const LearnerCounters counters{take("training_iteration"), take("num_env_steps_sampled_lifetime")};
  learner.set_state(state);
  return counters;
}

void load_parameters(Files& files, const Config& config, const Space& observation_space, Learner& learner) {
  const std::string& directory = config.rl_module.init_from;
  const std::vector<std::string>& parts = config.rl_module.init_parts;
  const TensorMap there = read_tensors(files, directory, kModuleFile);
  LearnerState state = learner.state();
  for (const std::string& part : parts) {
    if (std::ranges::any_of(state.module, [&](const auto& own) { return lies_in(own.first, part); })) continue;
    std::vector<std::string> known;
    for (const auto& [name, tensor] : state.module) known.push_back(name.substr(0, name.find('.')));
    fail(Exit::usage, "out-of-range", "rl_module.init_parts has '{}', which is no part of the network{}", part,
         suggestion(part, known));
  }
  MovedFeatures moved(files, directory, observation_space);
  for (auto& [name, tensor] : state.module) {
    if (!parts.empty() && std::ranges::none_of(parts, [&](const auto& part) { return lies_in(name, part); })) continue;
    const auto found = there.find(name);
    if (found == there.end())
      fail(Exit::usage, "foreign-checkpoint", "{}/{} has no {}, which rl_module.init_from wants of it", directory,
           kModuleFile, name);
    if (moved.take_weight(learner.spec(), name, found->second, tensor)) continue;
    if (found->second.shape != tensor.shape || found->second.dtype != tensor.dtype)
      fail(Exit::usage, "foreign-checkpoint",
           "{}/{}: {} has shape [{}], this run's [{}]; rl_module.init_parts says what to take", directory, kModuleFile,
           name, fmt::join(found->second.shape, ", "), fmt::join(tensor.shape, ", "));
    tensor = found->second;
  }
  if (const auto target = state.scalars.find("target_parameters"); target != state.scalars.end())
    target->second = Tensor::of(flat_parameters(learner.spec(), state.module, kModuleFile), target->second.shape);
  const std::string& init_filter = config.rl_module.init_filter;
  if (init_filter == "keep" || (init_filter == "auto" && parts.empty())) {
    const TensorMap connectors = read_tensors(files, directory, kConnectorsFile);
    const auto filter = connectors.find("mean_std_filter");
    const auto own = state.connectors.find("mean_std_filter");
    const bool has = filter != connectors.end(), wants = own != state.connectors.end();
    if (has != wants)
      fail(Exit::usage, "foreign-checkpoint",
           "{} was trained {} a filter of observations, this run is {}: set environment.observation_filter alike, or "
           "rl_module.init_filter = \"fresh\"",
           directory, has ? "with" : "without", wants ? "with one" : "without");
    if (wants) {
      const std::vector<double> statistics =
          moved.filter(filter->second.f64(), static_cast<double>(config.training.train_batch_size));
      own->second = Tensor::of(std::span<const double>(statistics), {statistics.size()});
    }
  }
  learner.set_state(state);
}

std::optional<std::vector<wire::Episode>> load_pending_batch(Files& files, const std::string& directory,
                                                             size_t first_place, size_t all_places,
                                                             BatchAssembler& assembler) {
  const FragmentLayout& layout = assembler.batch_layout();
  const auto mine = static_cast<size_t>(layout.environments());
  const size_t of_place = mine / assembler.places(), first = first_place * of_place;
  std::vector<PendingPart> parts = pending_parts(files, directory, all_places * of_place);
  if (parts.empty()) return std::nullopt;
  Fragment& batch = assembler.set_pending();
  batch.weights_version = parts[0].number("weights_version");
  copy_pending(parts, first, all_places * of_place, batch);
  copy_pending_tail(parts, first, batch);
  std::vector<wire::Episode> episodes;
  for (const PendingPart& part : parts) {
    if (part.first < first || part.first >= first + mine) continue;  // of each part to one shard
    const Tensor& tensor = part.tensor("episodes");
    const std::vector<double> rows = tensor.f64();
    const size_t columns =
        tensor.shape.size() == 2 && tensor.shape[1] == 3 ? 3 : 4;  // 3: of checkpoints without levels
    const auto integer = [](double value) { return static_cast<uint32_t>(value); };
    for (size_t i = 0; i + columns <= rows.size(); i += columns)
      episodes.emplace_back(rows[i], integer(rows[i + 1]), integer(rows[i + 2]),
                            columns == 3 ? 0 : integer(rows[i + 3]));
  }
  return episodes;
}

}  // namespace myriad
