#include "apps/learner_files.hpp"

#include <cstring>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr const char* kModule = "learner_group/modules/default_policy.safetensors";
constexpr const char* kOptimizer = "learner_group/optimizer.safetensors";
constexpr const char* kConnectors = "learner_group/connectors.safetensors";
constexpr const char* kState = "learner_group/state.safetensors";

TensorMap read_tensors(Files& files, const std::string& directory, const char* name) {
  try {
    return decode_safetensors(files.read(directory + "/" + name), directory + "/" + name);
  } catch (const FileError& error) {
    fail(Exit::usage, "corrupt-file", "{}/{}: {}", directory, name, std::strerror(error.error));
  }
}

}  // namespace

std::vector<wire::FileEntryT> save_learner(Files& files, const LearnerCore::WriteCheckpoint& request,
                                           const Learner& learner) {
  std::vector<wire::FileEntryT> entries;
  const auto write = [&](const std::string& name, std::span<const std::byte> bytes) {
    const CheckpointFile file = write_checkpoint_file(files, request.directory, name, bytes);
    wire::FileEntryT entry;
    entry.name = file.name;
    entry.bytes = file.bytes;
    entry.crc32c = file.crc32c;
    entries.push_back(std::move(entry));
  };
  const LearnerState state = learner.state();
  TensorMap counters = state.scalars;
  const auto count = [](uint64_t value) { return Tensor::of(std::vector<int64_t>{static_cast<int64_t>(value)}, {1}); };
  counters["training_iteration"] = count(request.training_iteration);
  counters["num_env_steps_sampled_lifetime"] = count(request.num_env_steps_sampled_lifetime);
  write(kModule, encode_safetensors(state.module, {{"module", learner.spec().to_string()}}));
  write(kOptimizer, encode_safetensors(state.optimizer));
  write(kConnectors, encode_safetensors(state.connectors));
  write(kState, encode_safetensors(counters));
  for (const SavedRunner& runner : request.runners)
    write(fmt::format("env_runners/slot-{:04}.safetensors", runner.slot), runner.state.view);
  return entries;
}

LearnerCounters load_learner(Files& files, const std::string& directory, Learner& learner) {
  LearnerState state;
  state.module = read_tensors(files, directory, kModule);
  state.optimizer = read_tensors(files, directory, kOptimizer);
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

}  // namespace myriad
