// TorchTrainer on CpuSupport, against NativeTrainer: the same code runs on a GPU (gpu_test.cpp).
#include "learners/device/torch_trainer.hpp"

#include "tests/algorithms/examples.hpp"
#include "tests/learners/device_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/device/torch_trainer");

TEST_CASE("TorchTrainer: trains as the native executor does, batch after batch") {
  for (const char* name : kDeviceCases)
    for (const Space& actions : action_spaces_of(name)) {
      CAPTURE(name);
      CAPTURE(actions.to_string());
      const Config config = device_config(name);
      Learner here(config, kObs, actions), there(config, kObs, actions, make_cpu_support());
      for (uint64_t update = 1; update <= 6; ++update) {
        CAPTURE(update);
        Fragment batch = batch_of(actions, update, cuts_of(update));
        const Metrics want = here.update(&batch).metrics, got = there.update(&batch).metrics;
        check_metrics(got, want, 2e-3);
      }
      CHECK(apart(here, there) <= 2e-4f);
      const TensorMap want = here.state().scalars, got = there.state().scalars;
      if (want.contains("target_parameters")) {
        CHECK(want.at("num_target_updates").i64()[0] >= 3);
        const std::vector<float> x = want.at("target_parameters").f32(), y = got.at("target_parameters").f32();
        for (size_t i = 0; i < x.size(); ++i) CHECK(std::abs(x[i] - y[i]) <= 2e-4f);
      }
      CHECK(got.at("num_module_steps_trained_lifetime").i64() == want.at("num_module_steps_trained_lifetime").i64());
      CHECK(there.weights().filter == here.weights().filter);
      CHECK(there.weights().version == 6);
    }
}

TEST_CASE("TorchTrainer: recorded work gives the same numbers, and is counted") {
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    const Space actions = Space::discrete(3, 5);
    int64_t replays = 0;
    const Config config = device_config(name);
    Learner plain(config, kObs, actions, make_cpu_support()),
        recorded(config, kObs, actions, std::make_unique<RecordingSupport>(&replays));
    Metrics got;
    for (uint64_t update = 1; update <= 12; ++update) {
      Fragment batch = batch_of(actions, update, cuts_of(update));
      const Metrics want = plain.update(&batch).metrics;
      got = recorded.update(&batch).metrics;
      CHECK(without_work(got) == without_work(want));
    }
    CHECK(same(plain.state(), recorded.state()));
    CHECK(replays > 0);
    CHECK(got.at("num_device_work_replayed_lifetime") == static_cast<double>(replays));
    CHECK(got.at("num_device_work_warm_up_lifetime") > 0);
    if (name != std::string("APPO"))                                        // whose buffer fills first
      CHECK(got.at("num_device_work_forgotten_final_rows_lifetime") == 1);  // 20 cuts: from 8 rows to 32, once
  }
}

TEST_CASE("TorchTrainer: stacks the frames of a batch as the host does, to the bit, recorded too") {
  const Space actions = Space::discrete(3, 5);
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    int64_t replays = 0;
    const Config config = device_config(name);
    Learner whole(config, kObs, actions, make_cpu_support()), frames(config, kObs, actions, make_cpu_support()),
        recorded(config, kObs, actions, std::make_unique<RecordingSupport>(&replays));
    for (uint64_t update = 1; update <= 8; ++update) {
      Fragment stacks = batch_of(actions, update, cuts_of(update));
      Fragment batch = frames_of(stacks);
      const Metrics want = without_work(whole.update(&stacks).metrics);
      CHECK(without_work(frames.update(&batch).metrics) == want);
      CHECK(without_work(recorded.update(&batch).metrics) == want);
    }
    CHECK(replays > 0);
    CHECK(same(frames.state(), whole.state()));
    CHECK(same(recorded.state(), whole.state()));
  }
}

TEST_CASE("TorchTrainer: what is recorded never waits for the device") {
  int64_t replays = 0;
  RecordingSupport support(&replays);
  const at::Tensor x = at::ones({3});
  Waits::seen.clear();
  support.record([&] { x.sum().item<float>(); })->replay();
  CHECK(!Waits::seen.empty());  // it would be noticed
  for (const char* name : kDeviceCases)
    for (const Space& actions : action_spaces_of(name)) {
      CAPTURE(name);
      Config config = device_config(name);
      config.rl_module.fcnet_use_layernorm = true;
      config.learners.autocast = "bfloat16";
      Learner learner(config, kObs, actions, std::make_unique<RecordingSupport>(&replays));
      Waits::seen.clear();
      replays = 0;
      for (uint64_t update = 1; update <= 8; ++update) {
        Fragment batch = batch_of(actions, update);
        learner.update(&batch);
      }
      CHECK(replays > 0);
      CHECK(Waits::seen == std::vector<std::string>());
    }
}

TEST_CASE("TorchTrainer: a batch of another layout is trained on, and what was recorded is forgotten") {
  int64_t replays = 0;
  Config config = async_config("IMPALA");
  const Space actions = Space::discrete(2);
  Learner here(config, kObs, actions), there(config, kObs, actions, std::make_unique<RecordingSupport>(&replays));
  Fragment wide = batch_of(actions), narrow = batch_of(actions, 2, 0, 4);
  for (Fragment* batch : {&wide, &wide, &wide, &narrow, &narrow, &wide}) {
    here.update(batch);
    there.update(batch);
  }
  CHECK(apart(here, there) <= 1e-4f);
  CHECK(there.update(&wide).metrics.at("num_device_work_forgotten_layout_lifetime") == 2);
  CHECK(replays == 1);
}

TEST_CASE("TorchTrainer: its checkpoint continues bit for bit, and in the native executor as well") {
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    const Space actions = action_spaces_of(name).back();
    Config config = device_config(name);
    if (config.algorithm == "APPO") config = async_config("APPO");  // a larger buffer is not saved
    Learner a(config, kObs, actions, make_cpu_support()), b(config, kObs, actions, make_cpu_support()),
        here(config, kObs, actions);
    for (uint64_t seed : {1, 2, 3}) {
      Fragment batch = batch_of(actions, seed);
      a.update(&batch);
    }
    const LearnerState saved = a.state();
    b.set_state(saved);
    here.set_state(saved);
    CHECK(same(b.state(), saved));
    CHECK(same(here.state(), saved));
    Fragment batch = batch_of(actions, 4);
    const Metrics x = a.update(&batch).metrics, y = b.update(&batch).metrics, z = here.update(&batch).metrics;
    CHECK(without_work(x) == without_work(y));
    CHECK(same(a.state(), b.state()));
    check_metrics(x, without_work(z), 1e-3);
    CHECK(apart(a, here) <= 1e-4f);
  }
}

TEST_CASE("TorchTrainer: a batch with NaN changes nothing, is counted, and the third in a row is an error") {
  const Space actions = Space::discrete(2);
  for (const char* algorithm : {"PPO", "IMPALA"}) {
    CAPTURE(algorithm);
    Config config = algorithm == std::string("PPO") ? config_of() : async_config(algorithm);
    config.training.num_epochs = 1;
    config.training.minibatch_size = 0;
    config.training.grad_clip = 1.0;
    Learner learner(config, kObs, actions, make_cpu_support());
    Fragment good = batch_of(actions), bad = batch_of(actions);
    bad.values<float>(bad.layout().column("rewards"))[3] = std::nanf("");
    learner.update(&good);
    const LearnerState before = learner.state();
    const UpdateResult result = learner.update(&bad);
    CHECK(result.skipped == 1);
    CHECK(result.grad_updates == 0);
    CHECK(!result.metrics.contains("total_loss"));
    CHECK(result.metrics.at("num_module_steps_trained_lifetime") == 128);
    CHECK(same(learner.state().module, before.module));
    CHECK(learner.state().optimizer.at("exp_avg").f32() == before.optimizer.at("exp_avg").f32());
    CHECK(learner.update(&bad).metrics.at("num_skipped_updates_lifetime") == 2);
    const UpdateResult again = learner.update(&good);
    CHECK(again.grad_updates == 1);
    CHECK(again.skipped == 0);
    learner.update(&bad);
    learner.update(&bad);
    CHECK_THROWS_WITH_AS(learner.update(&bad), doctest::Contains("'encoder.0.weight'"), Error);
  }
}

TEST_CASE("TorchTrainer: bfloat16 trains nearly as float32 does") {
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    const Space actions = action_spaces_of(name).back();
    Config config = device_config(name);
    Learner exact(config, kObs, actions, make_cpu_support());
    config.learners.autocast = "bfloat16";
    Learner rough(config, kObs, actions, make_cpu_support());
    Metrics want, got;
    for (uint64_t update = 1; update <= 4; ++update) {
      Fragment batch = batch_of(actions, update);
      want = exact.update(&batch).metrics;
      got = rough.update(&batch).metrics;
    }
    CHECK(apart(exact, rough) > 1e-6f);
    CHECK(apart(exact, rough) <= 1e-2f);
    for (const char* metric : losses_of(name)) CHECK(got.at(metric) == doctest::Approx(want.at(metric)).epsilon(0.02));
  }
}

TEST_CASE("TorchTrainer: target_kl_stop ends the epochs of an update where the native executor ends them") {
  const Space actions = Space::discrete(2);
  Config config = config_of();
  PpoConfig own;
  own.target_kl_stop = 1e-3;
  config.algorithm_config = std::make_unique<PpoConfig>(own);
  config.training.lr = 3e-3;
  config.training.num_epochs = 20;
  Learner here(config, kObs, actions), there(config, kObs, actions, make_cpu_support());
  Fragment batch = batch_of(actions);
  const int64_t want = here.update(&batch).grad_updates;
  CHECK(want < 20 * 4);
  CHECK(there.update(&batch).grad_updates == want);
}

TEST_CASE("TorchTrainer: IMPALA and APPO learn a two-step problem from batches of a policy three updates old") {
  for (const char* algorithm : {"IMPALA", "APPO"}) {
    CAPTURE(algorithm);
    Config config = load_config(fmt::format("algorithm = '{}'", algorithm), "test");
    config.rl_module.fcnet_hiddens = {16, 16};
    config.training.lr = 5e-3;
    config.training.train_batch_size = 256;
    if (auto* own = dynamic_cast<AppoConfig*>(config.algorithm_config.get())) own->circular_buffer_num_batches = 4;
    Learner learner(config, Space::box(-1, 1, {2}), Space::discrete(2), make_cpu_support());
    CHECK(reward_after(learner, 120, 3) > 0.9);
  }
}

TEST_CASE("TorchTrainer: batches it cannot use are errors before anything is trained") {
  const Space actions = Space::discrete(2);
  Learner learner(config_of(), kObs, actions, make_cpu_support());
  Fragment other = batch_of(Space::box(-1, 1, {1}));
  CHECK_THROWS_AS(learner.update(&other), Error);
  Fragment outside = batch_of(actions);
  outside.values<int32_t>(outside.layout().column("actions"))[0] = 2;
  CHECK_THROWS_AS(learner.update(&outside), Error);
  LearnerState state = learner.state();
  state.optimizer.erase("exp_avg");
  CHECK_THROWS_AS(learner.set_state(state), Error);
}

TEST_SUITE_END();
