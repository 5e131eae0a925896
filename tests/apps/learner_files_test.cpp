#include "apps/learner/learner_files.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <set>

#include "rl/check.hpp"
#include "tests/error_of.hpp"
#include "tests/learners/group_examples.hpp"
#include "tests/temporary_folder.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("apps/learner/learner_files");

namespace {

Config config_with(const std::string& shard) {
  Config config = full_config("APPO");
  config.learners.shard = shard;
  config.learners.executor = "torch";
  return config;
}

class Directory {
 public:
  Directory() { std::filesystem::create_directories(group() / "modules"); }
  std::string path() const { return folder_.path.string(); }
  std::filesystem::path group() const { return folder_.path / "learner_group"; }

 private:
  TemporaryFolder folder_;
};

/// Saves what `shards` have; returns the files' names.
std::multiset<std::string> save(const Learners& shards, const Directory& directory) {
  auto layout = std::make_shared<FragmentLayout>(1, 1);
  layout->add("obs", Rows::step_and_bootstrap, DType::f32, {3});
  std::vector<std::vector<CheckpointFile>> written(shards.size());
  in_threads(static_cast<uint32_t>(shards.size()), [&](uint32_t r) {
    const auto files = make_system_files("/");
    BatchAssembler assembler(layout, 1);
    LearnerCore::WriteCheckpoint request{};
    request.directory = directory.path();
    request.training_iteration = 7;
    request.num_env_steps_sampled_lifetime = 1234;
    written[r] = save_learner(*files, request, *shards[r], 0, assembler);
  });
  std::multiset<std::string> names;
  for (const auto& list : written)
    for (const CheckpointFile& file : list) names.insert(file.name);
  return names;
}

/// A learner with all that the checkpoint has.
LearnerState loaded(const std::string& shard, const Directory& directory) {
  Learner learner(config_with(shard), kObs, kActions);
  const auto files = make_system_files("/");
  const LearnerCounters counters = load_learner(*files, directory.path(), learner);
  CHECK(counters.training_iteration == 7);
  CHECK(counters.num_env_steps_sampled_lifetime == 1234);
  return learner.state();
}

}  // namespace

TEST_CASE("Checkpoint: what four shards saved is read by 1, 2 and 8, equal to the bit, and goes on alike") {
  for (const char* shard : {"none", "optimizer", "gradients", "parameters"}) {
    CAPTURE(shard);
    Directory directory;
    Learners four = make_learners(4, [&] { return config_with(shard); });
    join_all(four, members_of(4, nullptr));
    for (uint64_t seed : {1, 2, 3}) update_all(four, seed, {2, 2, 2, 2});
    const std::multiset<std::string> names = save(four, directory);
    const bool parts = shard != std::string("none");
    CHECK(names.count("learner_group/modules/default_policy.safetensors") == 1);
    CHECK(names.count("learner_group/connectors.safetensors") == 1);
    CHECK(names.count("learner_group/state.safetensors") == 1);
    CHECK(names.count("learner_group/optimizer-0003-of-0004.safetensors") == (parts ? 1 : 0));
    CHECK(names.count("learner_group/optimizer-0000-of-0001.safetensors") == (parts ? 0 : 1));
    CHECK(names.count("learner_group/module.json") == 1);
    CHECK(names.size() == (parts ? 8 : 5));

    const LearnerState state = loaded(shard, directory);
    const std::vector<LearnerState> saved = states_of(four);
    CHECK(same(state.module, saved[0].module));
    CHECK(same(state.scalars, saved[0].scalars));
    CHECK(same(state.connectors, saved[0].connectors));
    std::vector<std::byte> moments;
    for (const LearnerState& part : saved)
      if (parts || moments.empty()) {
        const auto& bytes = part.optimizer.at("exp_avg_sq").bytes;
        moments.insert(moments.end(), bytes.begin(), bytes.end());
      }
    CHECK(state.optimizer.at("exp_avg_sq").bytes == moments);

    for (const uint32_t size : {1u, 2u, 8u}) {
      CAPTURE(size);
      Learners shards = make_learners(size, [&] { return config_with(shard); });
      for (const auto& learner : shards) {
        const auto files = make_system_files("/");
        load_learner(*files, directory.path(), *learner);
      }
      join_all(shards, members_of(size, nullptr));
      Directory copy;
      save(shards, copy);
      CHECK(same(loaded(shard, copy), state));
    }
  }
}

TEST_CASE("Checkpoint: a batch that waited is refused where this run's rows have other sizes") {
  Directory directory;
  const auto files = make_system_files("/");
  const auto layout_with = [](DType obs) {
    auto layout = std::make_shared<FragmentLayout>(1, 1);
    layout->add("obs", Rows::step_and_bootstrap, obs, {3})
        .add("terminateds", Rows::step, DType::u8, {})
        .add("truncateds", Rows::step, DType::u8, {});
    return layout;
  };
  BatchAssembler saved(layout_with(DType::f32), 1);
  saved.add(0, SharedBytes::of(std::vector<std::byte>(layout_with(DType::f32)->used_bytes(0))), 0);
  const Learner learner(config_with("none"), kObs, kActions);
  LearnerCore::WriteCheckpoint request{};
  request.directory = directory.path();
  request.with_batch = true;
  save_learner(*files, request, learner, 0, saved);
  BatchAssembler floats(layout_with(DType::f32), 1), bytes(layout_with(DType::u8), 1);
  CHECK(load_pending_batch(*files, directory.path(), 0, 1, floats).has_value());
  CHECK_THROWS_WITH_AS(load_pending_batch(*files, directory.path(), 0, 1, bytes),
                       doctest::Contains("column obs has rows of 12 bytes, this run's of 3"), Error);
}

TEST_CASE("Checkpoint: the single optimizer file of before is still read; a missing part is an error") {
  Directory directory;
  Learners shards = make_learners(2, [] { return config_with("optimizer"); });
  join_all(shards, members_of(2, nullptr));
  update_all(shards, 1, {4, 4});
  save(shards, directory);
  const LearnerState state = loaded("optimizer", directory);
  std::filesystem::remove(directory.group() / "optimizer-0001-of-0002.safetensors");
  CHECK_THROWS_AS(loaded("optimizer", directory), Error);
  std::filesystem::remove(directory.group() / "optimizer-0000-of-0002.safetensors");
  const auto files = make_system_files("/");
  write_checkpoint_file(*files, directory.path(), "learner_group/optimizer.safetensors",
                        encode_safetensors(state.optimizer));
  CHECK(same(loaded("none", directory), state));
}

TEST_CASE("load_parameters: a new learner begins with parts of another's parameters, or all and its filter") {
  Directory directory;
  Learners other = make_learners(1, [] { return config_with("none"); });
  update_all(other, 1, {2});
  save(other, directory);
  const LearnerState there = other[0]->state();
  const auto files = make_system_files("/");
  const auto from = [&](Config& config, const std::vector<std::string>& parts, const char* filter = "auto") -> Config& {
    config.rl_module.init_from = directory.path();
    config.rl_module.init_parts = parts;
    config.rl_module.init_filter = filter;
    return config;
  };
  const auto begun = [&](const std::vector<std::string>& parts, const char* shard = "none") {
    Config config = config_with(shard);
    config.seed = 5;
    Learner learner(config, kObs, kActions);
    const LearnerState before = learner.state();
    load_parameters(*files, from(config, parts), kObs, learner);
    return std::pair(before, learner.state());
  };
  const auto bytes = [](const TensorMap& tensors, const std::string& name) { return tensors.at(name).bytes; };
  for (const char* shard : {"none", "parameters"}) {
    const auto [before, after] = begun({"encoder", "vf.weight"}, shard);
    for (const auto& [name, tensor] : after.module) {
      CAPTURE(name);
      const bool taken = name.starts_with("encoder.") || name == "vf.weight";
      CHECK(tensor.bytes == bytes(taken ? there.module : before.module, name));
    }
    const std::vector<float> target = after.scalars.at("target_parameters").f32();
    CHECK(target == flat_parameters(other[0]->spec(), after.module, "it"));
    CHECK(after.scalars.at("version").i64() == std::vector<int64_t>{0});
    CHECK(bytes(after.connectors, "mean_std_filter") == bytes(before.connectors, "mean_std_filter"));
  }
  const auto [before, after] = begun({});
  for (const auto& [name, tensor] : after.module) CHECK(tensor.bytes == bytes(there.module, name));
  CHECK(bytes(after.connectors, "mean_std_filter") == bytes(there.connectors, "mean_std_filter"));
  CHECK(bytes(after.optimizer, "exp_avg") == bytes(before.optimizer, "exp_avg"));

  CHECK(error_of([&] {
          begun({"encoder", "pie"});
        }) == "error[out-of-range] rl_module.init_parts has 'pie', which is no part of the network; did you mean pi?");
  Config bare = config_with("none");
  bare.environment.observation_filter = "NoFilter";
  Learner unfiltered(bare, kObs, kActions);
  CHECK(error_of([&] {
          load_parameters(*files, from(bare, {}), kObs, unfiltered);
        }).find("was trained with a filter of observations, this run is without") != std::string::npos);
  load_parameters(*files, from(bare, {"encoder"}), kObs, unfiltered);
  load_parameters(*files, from(bare, {}, "fresh"), kObs, unfiltered);
  Config filtered = config_with("none");
  for (const char* filter : {"keep", "fresh"}) {
    Learner learner(filtered, kObs, kActions);
    load_parameters(
        *files,
        from(filtered, filter == std::string("keep") ? std::vector<std::string>{"pi"} : std::vector<std::string>{},
             filter),
        kObs, learner);
    const bool kept =
        bytes(learner.state().connectors, "mean_std_filter") == bytes(there.connectors, "mean_std_filter");
    CHECK(kept == (filter == std::string("keep")));
  }
  Config wide = config_with("none");
  wide.rl_module.fcnet_hiddens = {17};
  Learner learner(wide, kObs, kActions);
  const std::string said = error_of([&] { load_parameters(*files, from(wide, {"encoder"}), kObs, learner); });
  CHECK(said.starts_with("error[foreign-checkpoint]"));
  CHECK(said.find("encoder.0.bias has shape [16], this run's [17]") != std::string::npos);
}

TEST_CASE("load_parameters: what reads other observations is taken by the names of their parts") {
  const auto box = [](int n) { return Space::box(-1, 1, {n}); };
  const Space there = Space(Dict{{{"goal", box(1)}, {"joints", box(3)}, {"old", box(2)}}}),
              here = Space(Dict{{{"camera", box(2)}, {"goal", box(1)}, {"joints", box(3)}}});
  Config config = config_with("none");
  Directory directory;
  const auto files = make_system_files("/");
  Learner other(config, there, kActions);
  BatchAssembler assembler(
      [] {
        auto layout = std::make_shared<FragmentLayout>(1, 1);
        layout->add("obs", Rows::step_and_bootstrap, DType::f32, {3});
        return layout;
      }(),
      1);
  LearnerState state = other.state();
  const std::vector<double> statistics{1e6, 1, 2, 3, 4, 5, 6, 1e6, 2e6, 3e6, 4e6, 5e6, 6e6};
  state.connectors["mean_std_filter"] = Tensor::of(std::span<const double>(statistics), {13});
  other.set_state(state);
  LearnerCore::WriteCheckpoint request{};
  request.directory = directory.path();
  save_learner(*files, request, other, 0, assembler);
  const auto box_json = [](int n) { return fmt::format(R"({{"kind": "Box", "dtype": "f32", "shape": [{}]}})", n); };
  const auto spaces = [&](const std::string& observation) {
    const std::string text =
        fmt::format(R"({{"observation": {}, "action": {{"kind": "Discrete", "n": 2}}}})", observation);
    write_checkpoint_file(*files, directory.path(), "spaces.json", std::as_bytes(std::span(text)));
  };
  spaces(fmt::format(R"({{"kind": "Dict", "names": ["goal", "joints", "old"], "spaces": [{}, {}, {}]}})", box_json(1),
                     box_json(3), box_json(2)));
  config.seed = 5;
  config.rl_module.init_from = directory.path();
  const auto begun = [&](const Space& space) {
    Learner learner(config, space, kActions);
    load_parameters(*files, config, space, learner);
    return learner.state();
  };
  const LearnerState now = begun(here);
  const std::vector<float> old = state.module.at("encoder.0.weight").f32(),
                           taken = now.module.at("encoder.0.weight").f32();
  REQUIRE(old.size() == taken.size());
  constexpr int kOldColumn[] = {-1, -1, 0, 1, 2, 3};  // camera, goal, joints
  for (size_t row = 0; row < old.size() / 6; ++row)
    for (size_t column = 0; column < 6; ++column)
      CHECK(taken[row * 6 + column] ==
            (kOldColumn[column] < 0 ? 0.0f : old[row * 6 + static_cast<size_t>(kOldColumn[column])]));
  CHECK(now.module.at("encoder.0.bias").bytes == state.module.at("encoder.0.bias").bytes);
  const double rows = static_cast<double>(config.training.train_batch_size);
  CHECK(now.connectors.at("mean_std_filter").f64() ==
        std::vector<double>{rows, 0, 0, 1, 2, 3, 4, rows, rows, rows, 2 * rows, 3 * rows, 4 * rows});

  CHECK(error_of([&] {
          begun(Space(Dict{{{"joints", box(4)}}}));
        }) == "error[foreign-checkpoint] 'joints' has 3 features in the checkpoint's observations, this run's 4");
  CHECK(error_of([&] { begun(box(6)); }) ==
        "error[foreign-checkpoint] no part of the observations has the same name in the checkpoint (goal, joints, old) "
        "and in this run (no parts)");
  spaces(R"({"kind": "Graph"})");
  CHECK(error_of([&] { begun(here); }).ends_with("spaces.json: a space of kind Graph"));
  std::filesystem::remove(std::filesystem::path(directory.path()) / "spaces.json");
  CHECK(begun(here).module.at("encoder.0.weight").f32() == old);  // of before: by shape
}

TEST_SUITE_END();
