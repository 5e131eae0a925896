#include "learners/learner.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "learners/device/device_support.hpp"
#include "rl/check.hpp"
#include "tests/learners/learner_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/learner");

TEST_CASE("Learner: an update reports under RLlib's names and counts") {
  const Space actions = Space::discrete(2);
  Learner learner(config_of(), kObs, actions);
  Fragment batch = batch_of(actions);
  const UpdateResult result = learner.update(&batch);
  for (const char* name : {"total_loss", "policy_loss", "vf_loss", "vf_loss_unclipped", "vf_explained_var", "entropy",
                           "mean_kl_loss", "curr_kl_coeff", "curr_entropy_coeff", "default_optimizer_learning_rate",
                           "gradients_default_optimizer_global_norm"}) {
    CAPTURE(name);
    REQUIRE(result.metrics.contains(name));
    CHECK(std::isfinite(result.metrics.at(name)));
  }
  CHECK(result.grad_updates == 16);  // 4 epochs x 128 / 32
  CHECK(result.metrics.at("num_grad_updates") == 16);
  CHECK(result.metrics.at("num_skipped_updates") == 0);
  CHECK(result.metrics.at("num_module_steps_trained") == 128);
  CHECK(result.metrics.at("num_module_steps_trained_lifetime") == 4 * 128);
  CHECK(result.metrics.at("num_env_steps_trained_lifetime") == 128);
  CHECK(result.metrics.at("num_trainable_parameters") == static_cast<double>(learner.spec().num_parameters()));
  CHECK(learner.version() == 1);
}

TEST_CASE("Learner: weights are the inference part, the filter's state and the version") {
  const Space actions = Space::discrete(2);
  Learner learner(config_of(), kObs, actions);
  Weights before = learner.weights();
  CHECK(before.version == 0);
  CHECK(before.layout_hash == learner.spec().hash());
  CHECK(before.values.size() == learner.spec().num_inference_parameters());
  CHECK(before.filter[0] == 0.0);
  Fragment batch = batch_of(actions);
  learner.update(&batch);
  const Weights after = learner.weights();
  CHECK(after.version == 1);
  CHECK(after.values != before.values);
  CHECK(after.filter[0] == kSteps * kEnvironments);  // a row once, row T not
  double mean = 0;
  for (size_t i = 0; i < kSteps * kEnvironments; ++i)
    mean += batch.values<float>(batch.layout().column("obs"))[3 * i] / (kSteps * kEnvironments);
  CHECK(after.filter[1] == doctest::Approx(mean).epsilon(1e-5));
}

TEST_CASE("Learner: from frames it learns what it learns from whole stacks, to the bit") {
  const Space actions = Space::discrete(2);
  for (const bool filters : {false, true}) {
    std::vector<Config> configs;
    for (const char* executor : {"native", "torch"}) {
      configs.push_back(config_of(executor));
      configs.push_back(async_config("IMPALA", executor));
      configs.push_back(async_config("APPO", executor, 2));
      configs.push_back(async_config("IMPALA", executor));
      configs.back().training.minibatch_size = 2 * kSteps;
    }
    for (Config& config : configs) {
      CAPTURE(filters);
      CAPTURE(config.algorithm);
      CAPTURE(config.learners.executor);
      config.environment.observation_filter = filters ? "MeanStdFilter" : "NoFilter";
      Learner a(config, kObs, actions), b(config, kObs, actions);
      const LearnerState start = a.state();
      for (uint64_t update = 1; update <= 3; ++update) {
        Fragment whole = batch_of(actions, update, 10 * update);
        Fragment frames = frames_of(whole);
        CHECK(a.update(&whole).metrics == b.update(&frames).metrics);
        CHECK(same(a.state(), b.state()));
        CHECK(a.weights().filter == b.weights().filter);
      }
      CHECK(!same(a.state(), start));
      CHECK(b.weights().filter.empty() != filters);
    }
  }
}

TEST_CASE("Learner: of uint8 observations it learns what it learns of the same numbers as floats, to the bit") {
  const Space actions = Space::discrete(3);
  for (const char* algorithm : {"PPO", "IMPALA", "APPO"})
    for (const std::string way : {"native", "torch"}) {
      CAPTURE(algorithm);
      CAPTURE(way);
      Config config = algorithm == std::string("PPO") ? config_of() : async_config(algorithm);
      config.environment.observation_filter = "NoFilter";
      config.learners.executor = way;
      Learner of_floats(config, kObs, actions), of_bytes(config, kObs, actions);
      for (uint64_t seed = 1; seed <= 3; ++seed) {
        Fragment floats = batch_of(actions, seed, 2);
        auto layout = std::make_shared<FragmentLayout>(kSteps, kEnvironments);
        for (const Column& c : floats.layout().columns())
          layout->add(c.name, c.rows, c.name.ends_with("obs") ? DType::u8 : c.dtype, c.shape);
        Fragment bytes(layout);
        bytes.final_rows = floats.final_rows;
        for (const Column& c : layout->columns()) {
          const Column& from = floats.layout().column(c.name);
          if (c.dtype == from.dtype) {
            std::memcpy(bytes.row(c, 0), floats.row(from, 0), layout->rows(c) * c.row_bytes);
            continue;
          }
          const std::span<float> numbers = floats.values<float>(from);
          for (size_t i = 0; i < numbers.size(); ++i) {
            numbers[i] = std::round(std::clamp(40.0f * numbers[i], 0.0f, 255.0f));
            bytes.values<uint8_t>(c)[i] = static_cast<uint8_t>(numbers[i]);
          }
        }
        of_floats.update(&floats);
        of_bytes.update(&bytes);
      }
      CHECK(flat_parameters(of_floats.spec(), of_floats.state().module, "floats") ==
            flat_parameters(of_bytes.spec(), of_bytes.state().module, "bytes"));
    }
}

TEST_CASE("Learner: native and torch executors train alike") {
  for (const Space& actions : {Space::discrete(3, 5), Space::box(-1, 1, {1})}) {
    Learner native(config_of("native"), kObs, actions), torch(config_of("torch"), kObs, actions);
    Fragment batch = batch_of(actions);
    const Metrics a = native.update(&batch).metrics, b = without_work(torch.update(&batch).metrics);
    for (const auto& [name, value] : b) {
      CAPTURE(name);
      CHECK(a.at(name) == doctest::Approx(value).epsilon(1e-3));
    }
    const auto x = native.weights().values, y = torch.weights().values;
    for (size_t i = 0; i < x.size(); ++i) CHECK(std::abs(x[i] - y[i]) <= 1e-4f);
  }
}

TEST_CASE("Learner: a saved state in a new learner continues bit for bit") {
  for (const char* executor : {"native", "torch"})
    for (const Space& actions : {Space::discrete(2), Space::box(-1, 1, {1})}) {
      CAPTURE(executor);
      CAPTURE(actions.to_string());
      Learner a(config_of(executor), kObs, actions);
      Fragment first = batch_of(actions, 1), second = batch_of(actions, 2);
      a.update(&first);
      const LearnerState saved = a.state();
      Config other = config_of(executor);
      other.training.lr = config_of().training.lr;
      Learner b(other, kObs, actions);
      b.set_state(saved);
      CHECK(same(b.state(), saved));
      const Metrics x = a.update(&second).metrics, y = b.update(&second).metrics;
      CHECK(without_work(x) == without_work(y));
      CHECK(same(a.state(), b.state()));
      CHECK(!same(a.state(), saved));
    }
}

TEST_CASE("Learner: a checkpoint of before, with a position of the minibatches' stream, still loads") {
  const Space actions = Space::discrete(2);
  Learner a(config_of(), kObs, actions), b(config_of(), kObs, actions);
  Fragment batch = batch_of(actions);
  a.update(&batch);
  LearnerState state = a.state();
  CHECK(!state.scalars.contains("minibatch_random_position"));
  state.scalars["minibatch_random_position"] = Tensor::of(std::vector<int64_t>{7}, {1});
  b.set_state(state);
  CHECK(same(a.state(), b.state()));
}

TEST_CASE("Learner: two with the same seed agree to the bit, another seed differs") {
  const Space actions = Space::discrete(2);
  Fragment batch = batch_of(actions);
  Learner a(config_of(), kObs, actions), b(config_of(), kObs, actions);
  Config config = config_of();
  config.seed = 4;
  Learner c(config, kObs, actions);
  a.update(&batch);
  b.update(&batch);
  c.update(&batch);
  CHECK(same(a.state(), b.state()));
  CHECK(!same(a.state(), c.state()));
}

TEST_CASE("Learner: training on one batch lowers its losses and raises explained variance") {
  const Space actions = Space::discrete(2);
  Config config = config_of();
  config.training.lr = 3e-3;
  config.training.gamma = 0.5;  // targets that bootstrap less move less
  Learner learner(config, kObs, actions);
  Fragment batch = batch_of(actions);
  const Metrics first = learner.update(&batch).metrics;
  Metrics last;
  for (int i = 0; i < 30; ++i) last = learner.update(&batch).metrics;
  CHECK(last.at("policy_loss") < first.at("policy_loss"));
  CHECK(last.at("vf_loss_unclipped") < 0.8 * first.at("vf_loss_unclipped"));
  CHECK(last.at("vf_explained_var") > first.at("vf_explained_var"));
  CHECK(last.at("curr_kl_coeff") != first.at("curr_kl_coeff"));
}

TEST_CASE("Learner: a batch with NaN changes nothing, is counted, and the third in a row is an error") {
  const Space actions = Space::discrete(2);
  Config config = config_of();
  config.training.num_epochs = 1;
  config.training.minibatch_size = 1000;  // one minibatch an update
  Learner learner(config, kObs, actions);
  Fragment good = batch_of(actions), bad = batch_of(actions);
  bad.values<float>(bad.layout().column("rewards"))[3] = std::nanf("");
  learner.update(&good);
  const LearnerState before = learner.state();
  const UpdateResult result = learner.update(&bad);
  CHECK(result.skipped == 1);
  CHECK(result.grad_updates == 0);
  CHECK(result.metrics.at("num_skipped_updates") == 1);
  CHECK(!result.metrics.contains("total_loss"));
  CHECK(same(learner.state().module, before.module));
  CHECK(learner.update(&bad).metrics.at("num_skipped_updates_lifetime") == 2);
  CHECK_THROWS_WITH_AS(learner.update(&bad), doctest::Contains("'encoder.0.weight'"), Error);
}

TEST_CASE("Learner: a skipped minibatch is no part of the epoch's means, and its rows do not count as trained") {
  const Space actions = Space::discrete(2);
  for (const bool on_device : {false, true}) {
    CAPTURE(on_device);
    Config config = config_of();
    config.training.num_epochs = 1;
    config.training.shuffle_batch_per_epoch = false;  // minibatch i is rows 32 i to 32 i + 31
    config.training.lr = 0.0;                         // the same policy in all of them
    const auto metrics_with = [&](std::initializer_list<size_t> spoiled) {
      Learner learner(config, kObs, actions, on_device ? make_cpu_support() : nullptr);
      Fragment batch = batch_of(actions);
      for (const size_t i : spoiled) batch.values<float>(batch.layout().column("logp"))[32 * i + 7] = std::nanf("");
      const UpdateResult result = learner.update(&batch);
      CHECK(result.skipped == static_cast<int64_t>(spoiled.size()));
      CHECK(result.grad_updates == static_cast<int64_t>(4 - spoiled.size()));
      const double rows = static_cast<double>(result.grad_updates) * 32;
      CHECK(result.metrics.at("num_module_steps_trained") == rows);
      CHECK(result.metrics.at("num_module_steps_trained_lifetime") == rows);
      CHECK(result.metrics.at("num_env_steps_trained_lifetime") == 128);
      return result.metrics;
    };
    const Metrics all = metrics_with({}), second = metrics_with({0, 2, 3}), others = metrics_with({1});
    for (const char* name : {"policy_loss", "vf_loss", "gradients_default_optimizer_global_norm"})
      REQUIRE(std::abs(second.at(name) - others.at(name)) > 1e-3);
    for (const char* name : {"total_loss", "policy_loss", "vf_loss", "vf_loss_unclipped", "entropy", "mean_kl_loss",
                             "gradients_default_optimizer_global_norm"}) {
      CAPTURE(name);
      CHECK(128 * all.at(name) == doctest::Approx(32 * second.at(name) + 96 * others.at(name)).epsilon(1e-4));
    }
  }
}

TEST_CASE("Learner: grad_clip and adam_epsilon arrive at the optimizer") {
  const Space actions = Space::discrete(2);
  for (const bool on_device : {false, true}) {
    CAPTURE(on_device);
    Config config = config_of();
    config.training.num_epochs = 1;
    config.training.minibatch_size = 0;  // one step
    config.training.lr = 1.0;
    config.training.adam_epsilon = 1000.0;
    for (const std::optional<double> clip : {std::optional<double>(), std::optional<double>(0.25)}) {
      config.training.grad_clip = clip;
      Learner learner(config, kObs, actions, on_device ? make_cpu_support() : nullptr);
      const auto parameters = [&] { return flat_parameters(learner.spec(), learner.state().module, "test"); };
      const std::vector<float> before = parameters();
      Fragment batch = batch_of(actions);
      const double norm = learner.update(&batch).metrics.at("gradients_default_optimizer_global_norm");
      REQUIRE(norm > 0.5);  // of the gradient as it was
      const std::vector<float> after = parameters(), first = learner.state().optimizer.at("exp_avg").f32();
      double squares = 0;
      for (size_t i = 0; i < first.size(); ++i) {
        const double g = 10.0 * double{first[i]};  // m = 0.1 g
        squares += g * g;
        // m / 0.1 = g and sqrt(v / 0.001) = |g|
        CHECK(std::abs((after[i] - before[i]) + g / (std::abs(g) + 1000.0)) <= 1e-6);
      }
      CHECK(std::sqrt(squares) == doctest::Approx(clip.value_or(norm)).epsilon(1e-4));
    }
  }
}

TEST_CASE("Learner: an observation that is not finite never reaches the filter's statistics") {
  const Space actions = Space::discrete(2);
  Config config = config_of();
  config.training.num_epochs = 1;
  config.training.minibatch_size = 1000;
  Learner learner(config, kObs, actions);
  Fragment bad = batch_of(actions);
  bad.values<float>(bad.layout().column("obs"))[3] = INFINITY;
  learner.update(&bad);
  CHECK(learner.weights().filter[0] == 0.0);
}

TEST_CASE("Learner: the learning rate follows its schedule over env steps of the run") {
  const Space actions = Space::discrete(2);
  Config config = config_of();
  config.training.lr = Schedule({{0.0, 1e-3}, {256.0, 0.0}});
  for (const bool on_device : {false, true}) {
    CAPTURE(on_device);
    Learner learner(config, kObs, actions, on_device ? make_cpu_support() : nullptr);
    const auto parameters = [&] { return flat_parameters(learner.spec(), learner.state().module, "test"); };
    std::vector<float> before = parameters();
    Fragment batch = batch_of(actions);
    CHECK(learner.update(&batch).metrics.at("default_optimizer_learning_rate") == doctest::Approx(1e-3));
    CHECK(parameters() != before);
    CHECK(learner.update(&batch).metrics.at("default_optimizer_learning_rate") == doctest::Approx(5e-4));
    before = parameters();
    CHECK(learner.update(&batch).metrics.at("default_optimizer_learning_rate") == 0.0);
    CHECK(parameters() == before);
  }
}

TEST_CASE("Learner: the entropy coefficient follows its schedule over env steps of the run") {
  const Space actions = Space::discrete(2);
  for (const char* algorithm : {"PPO", "IMPALA", "APPO"}) {
    CAPTURE(algorithm);
    const Schedule schedule({{0.0, 1.0}, {256.0, 0.0}});
    Config config = algorithm == std::string("PPO") ? config_of() : async_config(algorithm);
    if (auto* ppo = dynamic_cast<PpoConfig*>(config.algorithm_config.get())) ppo->entropy_coeff = schedule;
    if (auto* other = dynamic_cast<ImpalaConfig*>(config.algorithm_config.get())) other->entropy_coeff = schedule;
    Learner learner(config, kObs, actions);
    Fragment batch = batch_of(actions);
    CHECK(learner.update(&batch).metrics.at("curr_entropy_coeff") == doctest::Approx(1));
    CHECK(learner.update(&batch).metrics.at("curr_entropy_coeff") == doctest::Approx(0.5));
  }
}

TEST_CASE("Learner: target_kl_stop ends the epochs of an update early") {
  const Space actions = Space::discrete(2);
  Config config = config_of();
  PpoConfig own;
  own.target_kl_stop = 1e-9;
  config.algorithm_config = std::make_unique<PpoConfig>(own);
  Learner learner(config, kObs, actions);
  Fragment batch = batch_of(actions);
  CHECK(learner.update(&batch).grad_updates < 16);
}

TEST_CASE("Learner: settings and batches it cannot use are errors") {
  const Space actions = Space::discrete(2);
  Config config = config_of("eigen");
  CHECK_THROWS_AS(Learner(config, kObs, actions), Error);
  Learner learner(config_of(), kObs, actions);
  Fragment other = batch_of(Space::box(-1, 1, {1}));
  CHECK_THROWS_AS(learner.update(&other), Error);
  Fragment outside = batch_of(actions);
  outside.values<int32_t>(outside.layout().column("actions"))[0] = 2;
  CHECK_THROWS_AS(learner.update(&outside), Error);
  LearnerState state = learner.state();
  state.scalars.erase("version");
  CHECK_THROWS_AS(learner.set_state(state), Error);
}

TEST_CASE("Learner: time-major, an update is one gradient step under RLlib's names") {
  for (const char* algorithm : {"IMPALA", "APPO"}) {
    CAPTURE(algorithm);
    const Space actions = Space::discrete(2);
    Learner learner(async_config(algorithm), kObs, actions);
    Fragment batch = batch_of(actions);
    const UpdateResult result = learner.update(&batch);
    for (const char* name :
         {"total_loss", "policy_loss", "vf_loss", "entropy", "mean_kl_loss", "importance_ratio_mean",
          "importance_ratio_clipped", "vf_explained_var", "gradients_default_optimizer_global_norm"}) {
      CAPTURE(name);
      REQUIRE(result.metrics.contains(name));
      CHECK(std::isfinite(result.metrics.at(name)));
    }
    const int64_t passes = algorithm == std::string("APPO") ? 2 : 1;
    CHECK(result.grad_updates == passes);
    CHECK(result.metrics.at("num_module_steps_trained_lifetime") == static_cast<double>(passes * 128));
    CHECK(result.metrics.at("num_env_steps_trained_lifetime") == 128);
  }
}

TEST_CASE("Learner: time-major, native and torch executors train alike") {
  for (const char* algorithm : {"IMPALA", "APPO"})
    for (const Space& actions : {Space::discrete(3, 5), Space::box(-1, 1, {1})}) {
      CAPTURE(algorithm);
      Learner native(async_config(algorithm, "native"), kObs, actions),
          torch(async_config(algorithm, "torch"), kObs, actions);
      Fragment batch = batch_of(actions);
      const Metrics a = native.update(&batch).metrics, b = without_work(torch.update(&batch).metrics);
      for (const auto& [name, value] : b) {
        CAPTURE(name);
        CHECK(a.at(name) == doctest::Approx(value).epsilon(1e-3));
      }
      const auto x = native.weights().values, y = torch.weights().values;
      for (size_t i = 0; i < x.size(); ++i) CHECK(std::abs(x[i] - y[i]) <= 1e-4f);
    }
}

TEST_CASE("Learner: time-major, minibatches are whole environments, and each counts once") {
  const Space actions = Space::discrete(2);
  Config config = async_config("IMPALA");
  config.training.lr = 0.0;  // the same policy in each minibatch: their means are the whole batch's
  config.training.shuffle_batch_per_epoch = false;
  Learner whole(config, kObs, actions);
  config.training.minibatch_size = 3 * kSteps + 1;  // three environments or fewer: 8 = 2 + 3 + 3
  config.training.shuffle_batch_per_epoch = true;
  Learner split(config, kObs, actions);
  config.training.minibatch_size = 1;
  Learner single(config, kObs, actions);
  Fragment batch = batch_of(actions);
  const Metrics a = whole.update(&batch).metrics, b = split.update(&batch).metrics, c = single.update(&batch).metrics;
  CHECK(a.at("num_grad_updates") == 1);
  CHECK(b.at("num_grad_updates") == 3);
  CHECK(c.at("num_grad_updates") == kEnvironments);
  for (const char* name : {"policy_loss", "vf_loss", "entropy", "mean_kl_loss", "importance_ratio_mean"}) {
    CAPTURE(name);
    CHECK(b.at(name) == doctest::Approx(a.at(name)).epsilon(1e-4));
    CHECK(c.at(name) == doctest::Approx(a.at(name)).epsilon(1e-4));
  }
}

TEST_CASE("Learner: time-major, a saved state in a new learner continues bit for bit") {
  for (const char* algorithm : {"IMPALA", "APPO"}) {
    CAPTURE(algorithm);
    const Space actions = Space::box(-1, 1, {1});
    Learner a(async_config(algorithm), kObs, actions), b(async_config(algorithm), kObs, actions);
    for (uint64_t seed : {1, 2, 3}) {  // APPO's target changes after the second and the fourth
      Fragment batch = batch_of(actions, seed);
      a.update(&batch);
    }
    const LearnerState saved = a.state();
    b.set_state(saved);
    for (uint64_t seed : {4, 5}) {
      Fragment batch = batch_of(actions, seed);
      CHECK(a.update(&batch).metrics == b.update(&batch).metrics);
    }
    CHECK(same(a.state(), b.state()));
    if (algorithm == std::string("IMPALA")) continue;
    LearnerState broken = saved;
    broken.scalars.erase("target_parameters");
    CHECK_THROWS_AS(b.set_state(broken), Error);
  }
}

TEST_CASE("Learner: passes over a circular buffer begin when N uses are there and leave N - 1") {
  const Space actions = Space::discrete(2);
  Learner learner(async_config("APPO", "native", 4), kObs, actions);  // K = 2
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Fragment batch = batch_of(actions, seed);
    const UpdateResult result = learner.update(&batch);
    CHECK(result.grad_updates == (seed == 1 ? 0 : seed == 2 ? 1 : 2));
    CHECK(result.metrics.at("circular_buffer_uses_left") == (seed == 1 ? 2 : 3));
    CHECK(result.metrics.at("circular_buffer_uses_dropped") == 0);
  }
}

TEST_CASE("Learner: the target network holds still between its updates and then becomes the policy") {
  const Space actions = Space::discrete(2);
  Learner learner(async_config("APPO"), kObs, actions);  // 2 x 1 x 2 batches: every second update
  const auto target = [&] { return learner.state().scalars.at("target_parameters").f32(); };
  const auto policy = [&] { return flat_parameters(learner.spec(), learner.state().module, "test"); };
  const std::vector<float> initial = policy();
  CHECK(target() == initial);
  Fragment batch = batch_of(actions);
  CHECK(learner.update(&batch).metrics.at("num_target_updates_lifetime") == 0);
  CHECK(target() == initial);
  CHECK(policy() != initial);
  CHECK(learner.update(&batch).metrics.at("num_target_updates_lifetime") == 1);
  CHECK(target() == policy());
  const std::vector<float> second = policy();
  CHECK(learner.update(&batch).metrics.at("num_target_updates_lifetime") == 1);
  CHECK(target() == second);
  CHECK(policy() != second);
  CHECK(learner.update(&batch).metrics.at("num_target_updates_lifetime") == 2);
  CHECK(target() == policy());
}

TEST_CASE("Learner: the target moves by tau of the way to the policy") {
  const Space actions = Space::discrete(2);
  for (const bool on_device : {false, true}) {
    CAPTURE(on_device);
    Config config = async_config("APPO");
    auto& own = dynamic_cast<AppoConfig&>(*config.algorithm_config);
    own.tau = 0.125;
    own.target_network_update_freq = 0.0;  // after each pass
    own.circular_buffer_iterations_per_batch = 1;
    config.training.lr = 0.1;
    Learner learner(config, kObs, actions, on_device ? make_cpu_support() : nullptr);
    std::vector<float> want = flat_parameters(learner.spec(), learner.state().module, "test");
    Fragment batch = batch_of(actions);
    for (int update = 1; update <= 3; ++update) {
      learner.update(&batch);
      const LearnerState state = learner.state();
      const std::vector<float> policy = flat_parameters(learner.spec(), state.module, "test"),
                               target = state.scalars.at("target_parameters").f32();
      float moved = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        moved = std::max(moved, std::abs(policy[i] - want[i]));
        want[i] = 0.125f * policy[i] + 0.875f * want[i];
        CHECK(std::abs(target[i] - want[i]) <= 1e-6f);
      }
      CHECK(moved > 0.05f);
    }
  }
}

TEST_CASE("Learner: each update shuffles its rows anew") {
  const Space actions = Space::discrete(2);
  for (const bool on_device : {false, true})
    for (const bool shuffles : {false, true}) {
      CAPTURE(on_device);
      CAPTURE(shuffles);
      Config config = config_of();
      PpoConfig own;
      own.use_kl_loss = false;  // a coefficient that adapts
      config.algorithm_config = std::make_unique<PpoConfig>(own);
      config.environment.observation_filter = "NoFilter";
      config.training.shuffle_batch_per_epoch = shuffles;
      config.training.num_epochs = 1;
      config.training.lr = 0.0;  // so that two updates differ in nothing else
      Learner learner(config, kObs, actions, on_device ? make_cpu_support() : nullptr);
      Fragment batch = batch_of(actions);
      const Metrics first = learner.update(&batch).metrics, second = learner.update(&batch).metrics;
      // Over all rows the means are the same; gradients are of minibatches, and so are their norms.
      CHECK(first.at("vf_loss") == doctest::Approx(second.at("vf_loss")).epsilon(1e-5));
      const char* norm = "gradients_default_optimizer_global_norm";
      CHECK((std::abs(first.at(norm) - second.at(norm)) > 1e-5 * first.at(norm)) == shuffles);
    }
}

TEST_CASE("Learner: the losses it reports are those of its last epoch") {
  const Space actions = Space::discrete(2);
  const auto vf_loss = [&](int64_t epochs, double lr, bool on_device) {
    Config config = config_of();
    config.training.num_epochs = epochs;
    config.training.minibatch_size = 0;  // an epoch's loss is that of the policy before its one step
    config.training.lr = lr;
    Learner learner(config, kObs, actions, on_device ? make_cpu_support() : nullptr);
    Fragment batch = batch_of(actions);
    return learner.update(&batch).metrics.at("vf_loss_unclipped");
  };
  const double start = vf_loss(1, 0.03, false), second = vf_loss(2, 0.03, false), third = vf_loss(3, 0.03, false);
  CHECK(start == vf_loss(1, 0.0, false));
  CHECK(second < 0.95 * start);
  CHECK(third < 0.95 * second);
  CHECK(vf_loss(1, 0.03, true) == doctest::Approx(start).epsilon(1e-3));
  CHECK(vf_loss(2, 0.03, true) == doctest::Approx(second).epsilon(1e-3));
  CHECK(vf_loss(3, 0.03, true) == doctest::Approx(third).epsilon(1e-3));
}

TEST_SUITE_END();
