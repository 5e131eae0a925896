#include "apps/learner_files.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr const char* kModule = "learner_group/modules/default_policy.safetensors";
constexpr const char* kOptimizer = "learner_group/optimizer.safetensors";  // of before there were parts
constexpr const char* kConnectors = "learner_group/connectors.safetensors";
constexpr const char* kState = "learner_group/state.safetensors";
constexpr const char* kPending = "learner_group/pending_batch.safetensors";

TensorMap read_tensors(Files& files, const std::string& directory, const char* name) {
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
TensorMap pending_tensors(Fragment& batch, const std::vector<wire::Episode>& episodes) {
  TensorMap tensors;
  for (const Column& column : batch.layout().columns()) {
    const size_t rows = column.rows == Rows::final_step ? batch.final_rows : batch.layout().rows(column);
    const std::byte* begin = batch.row(column, 0);
    tensors["columns/" + column.name] = {DType::u8, {rows, column.row_bytes}, {begin, begin + rows * column.row_bytes}};
  }
  std::vector<double> rows;
  for (const wire::Episode& e : episodes)
    rows.insert(rows.end(), {e.episode_return(), static_cast<double>(e.length()), static_cast<double>(e.env_index())});
  tensors["episodes"] = Tensor::of(rows, {episodes.size(), 3});
  tensors["final_rows"] = scalar(batch.final_rows);
  tensors["weights_version"] = scalar(batch.weights_version);
  return tensors;
}

using Write = std::function<void(const std::string& name, std::span<const std::byte> bytes)>;

void write_replicated(const Write& write, const LearnerCore::WriteCheckpoint& request, const Learner& learner,
                      const LearnerState& state) {
  TensorMap counters = state.scalars;
  counters["training_iteration"] = scalar(request.training_iteration);
  counters["num_env_steps_sampled_lifetime"] = scalar(request.num_env_steps_sampled_lifetime);
  write(kModule, encode_safetensors(state.module, {{"module", learner.spec().to_string()}}));
  write(kConnectors, encode_safetensors(state.connectors));
  write(kState, encode_safetensors(counters));
}

}  // namespace

std::vector<CheckpointFile> save_learner(Files& files, const LearnerCore::WriteCheckpoint& request,
                                         const Learner& learner, BatchAssembler& assembler) {
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
    write(kPending, encode_safetensors(
                        pending_tensors(assembler.pending(request.batch_weights_version), request.batch_episodes)));
  for (const SavedRunner& runner : request.runners)
    write(fmt::format("env_runners/slot-{:04}.safetensors", runner.slot), runner.state.view);
  return written;
}

LearnerCounters load_learner(Files& files, const std::string& directory, Learner& learner) {
  LearnerState state;
  state.module = read_tensors(files, directory, kModule);
  state.optimizer = read_optimizer(files, directory);
  state.connectors = read_tensors(files, directory, kConnectors);
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

std::optional<std::vector<wire::Episode>> load_pending_batch(Files& files, const std::string& directory,
                                                             BatchAssembler& assembler) {
  const auto names = files.list(directory + "/learner_group");
  if (std::find(names.begin(), names.end(), "pending_batch.safetensors") == names.end()) return std::nullopt;
  const TensorMap tensors = read_tensors(files, directory, kPending);
  const auto tensor = [&](const std::string& name) -> const Tensor& {
    const auto it = tensors.find(name);
    if (it == tensors.end()) fail(Exit::usage, "foreign-checkpoint", "{}/{} has no {}", directory, kPending, name);
    return it->second;
  };
  const auto number = [&](const char* name) {
    const auto values = tensor(name).i64();
    return values.empty() || values[0] < 0 ? 0 : static_cast<uint64_t>(values[0]);
  };
  Fragment& batch = assembler.set_pending(number("final_rows"));
  batch.weights_version = number("weights_version");
  for (const Column& column : batch.layout().columns()) {
    const bool tail = column.rows == Rows::final_step;
    const size_t rows = tail ? batch.final_rows : batch.layout().rows(column);
    const Tensor& values = tensor("columns/" + column.name);
    if (rows > batch.layout().rows(column) || values.bytes.size() != rows * column.row_bytes)
      fail(Exit::usage, "foreign-checkpoint", "{}/{}: column {} has {} bytes, this run's batch wants {} rows of {}",
           directory, kPending, column.name, values.bytes.size(), rows, column.row_bytes);
    std::copy(values.bytes.begin(), values.bytes.end(), batch.row(column, 0));
  }
  const std::vector<double> rows = tensor("episodes").f64();
  std::vector<wire::Episode> episodes;
  for (size_t i = 0; i + 2 < rows.size(); i += 3)
    episodes.emplace_back(rows[i], static_cast<uint32_t>(rows[i + 1]), static_cast<uint32_t>(rows[i + 2]));
  return episodes;
}

}  // namespace myriad
