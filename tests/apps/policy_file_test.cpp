#include "apps/driver/policy_file.hpp"

#include <doctest/doctest.h>

#include "rl/module_json.hpp"
#include "rl/run_layout.hpp"
#include "roles/checkpoint.hpp"
#include "tests/error_of.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace {

const RegisterEnv pictures{{.id = "Pictures-v0",
                            .observation_space = Space::box(0, 1, {10, 10, 4}, DType::u8),
                            .action_space = Space::discrete(2),
                            .source = "",
                            .make = [](const EnvOptions&) -> std::unique_ptr<Environment> { return nullptr; }}};

/// A checkpoint of `module`, whose file of its structure is there or is not.
void save(const std::string& root, Config& config, const ModuleSpec& module, bool with_spec) {
  const auto files = make_system_files("");
  CheckpointWriter writer(*files, root, 1);
  const auto prepared = writer.step(CheckpointWriter::Prepare{1}, Time{});
  const std::string& directory = std::get<CheckpointWriter::Prepared>(prepared).directory;
  CheckpointWriter::Commit commit;
  const auto write = [&](const char* name, std::span<const std::byte> bytes) {
    commit.files.push_back(write_checkpoint_file(*files, directory, name, bytes));
  };
  write(kModuleFile, encode_safetensors(named_parameters(module, initial_parameters(module, 1))));
  write(kConnectorsFile, encode_safetensors({}));
  const std::string spec = to_json(module);
  if (with_spec) write(kModuleSpecFile, std::as_bytes(std::span(spec)));
  commit.extra["config.toml"] = to_toml(config);
  REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(writer.step(commit, Time{})));
}

}  // namespace

TEST_SUITE("apps/policy_file") {
  TEST_CASE("load_policy: the network is the checkpoint's own; an older one has none written and is an MLP's") {
    Config config = load_config("algorithm = 'PPO'\n[environment]\nenv = 'Pictures-v0'", "test");
    const EnvSpec& env = EnvRegistry::instance().find("Pictures-v0");
    const ModuleSpec convolutions = module_of(config, env),
                     mlp = make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
    REQUIRE(!(convolutions == mlp));
    for (const bool with_spec : {true, false})
      for (const ModuleSpec& module : {mlp, convolutions}) {
        const TemporaryFolder folder;
        const std::string root = (folder.path / "checkpoints").string();
        save(root, config, module, with_spec);
        CAPTURE(with_spec);
        CAPTURE(module.to_string());
        if (with_spec || module == mlp) {
          const SavedPolicy policy = load_policy(folder.path.string());
          CHECK(policy.module == module);
          std::vector<float> values = initial_parameters(module, 1);
          values.resize(module.num_inference_parameters());
          CHECK(policy.weights->values == values);
        } else {
          CHECK(error_of([&] { load_policy(folder.path.string()); }).starts_with("error[foreign-checkpoint]"));
        }
      }
  }
}

}  // namespace myriad
