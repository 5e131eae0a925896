// LearnerGroup while it trains: scaling, places, hangs, reports, checkpoints.
#include "roles/learner_group.hpp"
#include "tests/simulation/group_harness.hpp"

namespace myriad {

using namespace group_harness;

namespace {

using Metrics = std::map<std::string, double>;

wire::IterationReportT report(uint64_t iteration, const Metrics& metrics, double episode_return = 0) {
  wire::IterationReportT report;
  report.training_iteration = iteration;
  report.num_env_steps_sampled_lifetime = 60 * iteration;
  report.weights_version = iteration;
  for (const auto& [key, value] : metrics) {
    report.metrics.push_back(std::make_unique<wire::KeyValueT>());
    report.metrics.back()->key = key;
    report.metrics.back()->value = value;
  }
  report.episodes.emplace_back(episode_return, 1, 0, 0);
  return report;
}

Metrics metrics(const Outputs& outputs) {
  const auto* reported = find<LearnerGroup::Reported>(outputs);
  REQUIRE(reported != nullptr);
  Metrics found;
  for (const auto& row : reported->report.metrics) found.emplace(row->key, row->value);
  return found;
}

wire::CheckpointDoneT done(uint64_t sequence, const std::string& file, const std::string& error = "") {
  wire::CheckpointDoneT done;
  done.sequence = sequence;
  done.training_iteration = 4;
  done.error = error;
  if (file.empty()) return done;
  done.files.push_back(std::make_unique<wire::FileEntryT>());
  done.files[0]->name = file;
  done.files[0]->bytes = 4;
  return done;
}

/// A group of two that trains.
struct Two : Group {
  Two() : Group(2) { begins(); }
  /// What its update thread does, said again so that it is not silent.
  Outputs does(uint32_t shard, uint64_t operations, bool inside) {
    wire::LearnerStatusT said = status(shard, LearnerStage::formed);
    said.operations = operations;
    said.inside = inside;
    said.busy_s = 1.0f;
    return receive(shard, std::move(said));
  }
  /// Both repeat what they do, for `time`; what the driver did about it.
  Outputs stand_still(Time time, bool first_inside, bool second_inside, uint64_t second_operations = 9) {
    Outputs all;
    for (const Time end = now + time; now < end;) {
      does(0, 10, first_inside), does(1, second_operations, second_inside);
      for (auto& output : tick(std::min<Time>(Seconds(5), end - now))) all.push_back(std::move(output));
    }
    return all;
  }
};

}  // namespace

TEST_SUITE("driver/learner_group") {
  // --- scaling ---

  TEST_CASE_FIXTURE(Two, "LearnerGroup: up, the group trains on until the new shard is there") {
    const Outputs scaled = resize(3);
    CHECK(event(scaled, "scale")->text == "from 2 learners to 3");
    CHECK(find<LearnerGroup::SpawnLearner>(scaled)->shard == 2);
    CHECK(group.formed());
    CHECK(tick().empty());
    arrives(2);
    CHECK(tick().empty());  // it has not said what it has
    CHECK(receive(2, status(2, LearnerStage::called), 0).empty());
    CHECK(group.epoch() == 1);
    const Outputs calls = tick();
    CHECK(group.epoch() == 2);
    CHECK(group.size() == 3);
    CHECK(event(calls, "group-broken") == nullptr);  // nothing is
    for (const uint32_t shard : {0u, 1u, 2u}) CHECK(!order(calls, peer(shard))->form);
    called(0, {6}), called(1, {6});
    const Outputs orders = called(2, {8});
    CHECK(order(orders, peer(2))->rank == 2);
    CHECK(order(orders, peer(2))->size == 3);
    CHECK(order(orders, peer(2))->version == 6);
    CHECK(!order(orders, peer(2))->everybody);
    formed(0), formed(1);
    CHECK(count<LearnerGroup::Formed>(formed(2)) == 1);
  }

  TEST_CASE_FIXTURE(Two,
                    "LearnerGroup: down, the others form at once, and who is too many is told to go until it went") {
    resize(3);
    arrives(2);
    receive(2, status(2, LearnerStage::called), 0);
    tick();
    forms({{6}, {6}, {6}});
    const Outputs scaled = resize(1);
    CHECK(group.epoch() == 3);
    CHECK(group.size() == 1);
    CHECK(order(scaled, peer(0)) != nullptr);
    CHECK(order(scaled, peer(1)) == nullptr);
    called(0, {7});
    const Outputs begins = formed(0, {7});
    CHECK(count<LearnerGroup::Formed>(begins) == 1);
    CHECK(sent<wire::StopT>(begins, peer(1))->reason == "the group is smaller now");
    CHECK(sent<wire::StopT>(begins, peer(2)) != nullptr);
    CHECK(sent<wire::StopT>(called(2, {6}), peer(2)) != nullptr);  // it has not heard that
    CHECK(group.num_processes() == 3);
    const Outputs left = dies(2, "exit status 0");
    CHECK(left.empty());
    dies(1, "exit status 0");
    CHECK(group.num_processes() == 1);
    CHECK(group.formed());
    CHECK(find<LearnerGroup::SpawnLearner>(resize(2))->incarnation == 1);  // and up again: another process
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: what a shard that is too many had committed counts") {
    resize(1);
    // Shard 1 does not belong to the epoch; it heard of it all the same and says what it has.
    called(1, {8});
    const Outputs orders = called(0, {7, true});
    CHECK(order(orders, peer(0))->version == 8);
  }

  TEST_CASE_FIXTURE(
      Two, "LearnerGroup: down while a shard is being replaced: nobody goes before the new one has the state") {
    dies(0);
    resize(1);
    CHECK(group.size() == 2);
    arrives(0);
    called(0);
    CHECK(order(called(1, {6}), peer(0, 1))->root == 1);
    CHECK(sent<wire::StopT>(formed(0, {6}), peer(1)) == nullptr);
    CHECK(sent<wire::StopT>(formed(1, {6}), peer(1)) == nullptr);
    tick();
    CHECK(group.size() == 1);
    called(0, {6});
    CHECK(sent<wire::StopT>(formed(0, {6}), peer(1)) != nullptr);
  }

  TEST_CASE_FIXTURE(
      Two,
      "LearnerGroup: who was to go stays when the one that was to stay is lost before the smaller group is there") {
    resize(1);
    CHECK(group.size() == 1);
    dies(0);
    CHECK(group.size() == 2);
    arrives(0);
    called(0);
    CHECK(order(called(1, {6}), peer(0, 1))->root == 1);
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: one that was told to go and lives on does not stand in for those that stayed") {
    resize(1);
    called(0, {6});
    CHECK(sent<wire::StopT>(formed(0, {6}), peer(1)) != nullptr);
    const Outputs outputs = dies(0);  // it may have made updates that shard 1 knows nothing of
    REQUIRE(find<LearnerGroup::Over>(outputs) != nullptr);
    CHECK(find<LearnerGroup::Over>(outputs)->error_code == "learner-lost");
    CHECK(count<LearnerGroup::SpawnLearner>(outputs) == 0);
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: one that was told to go and is asked again has no say in what counts") {
    resize(1);
    called(0, {6});
    formed(0, {6});
    resize(2);
    called(1, {6});  // of the epoch it missed: it has not heard that it should go
    tick();
    CHECK(group.size() == 2);
    called(1, {6});
    const Outputs orders = called(0, {6, true});  // alone, it had prepared update 7, and may have told others of it
    REQUIRE(order(orders, peer(0)) != nullptr);
    CHECK(order(orders, peer(0))->version == 7);
    CHECK(order(orders, peer(0))->root == 0);
    CHECK(order(orders, peer(0))->state->training_iteration == 7);
  }

  TEST_CASE("LearnerGroup: down with sharded state, one goes at a time: its neighbour has what it has") {
    Group run(3, /*sharded=*/true);
    run.begins();
    run.resize(1);
    CHECK(run.group.size() == 2);
    const auto has = [](uint32_t shard) { return Has{5, false, {shard, (shard + 1) % 3}, 3}; };
    run.called(0, has(0));
    const Outputs orders = run.called(1, has(1));
    CHECK(order(orders, peer(0))->holders == std::vector<uint32_t>{0, 0, 1});
    run.formed(0), run.formed(1);
    CHECK(run.group.formed());
    run.tick();
    CHECK(run.group.size() == 1);
    CHECK(run.group.epoch() == 3);
    CHECK(order(run.called(0, {5, false, {0, 1}, 2}), peer(0))->holders == std::vector<uint32_t>{0, 0});
    run.formed(0);
    CHECK(run.tick().empty());
  }

  TEST_CASE("LearnerGroup: down with sharded state waits while a shard is being replaced") {
    Group run(3, /*sharded=*/true);
    run.begins();
    run.dies(0);
    run.resize(2);
    CHECK(run.group.size() == 3);
    const auto has = [](uint32_t shard) { return Has{5, false, {shard, (shard + 1) % 3}, 3}; };
    run.arrives(0);
    run.called(0), run.called(1, has(1)), run.called(2, has(2));
    for (uint32_t shard = 0; shard < 3; ++shard) run.formed(shard, has(shard));
    REQUIRE(run.group.formed());
    run.tick();
    CHECK(run.group.size() == 2);
  }

  TEST_CASE("LearnerGroup: why a group cannot have that many shards") {
    auto options = Group::options(2);
    options.fragments_per_batch = 3;
    Group run(options);
    Outputs outputs;
    CHECK(run.group.resize(0, run.now, outputs) == "a run has at least one learner");
    CHECK(run.group.resize(5, run.now, outputs) ==
          "5 learners want as many host agents, and this run has 4: start it with hosts.num_hosts = 5");
    CHECK(run.group.resize(4, run.now, outputs) == "a batch has 3 fragments, fewer than 4 learners");
    CHECK(run.group.resize(2, run.now, outputs).empty());  // it has
    CHECK(outputs.empty());
  }

  // --- places ---

  TEST_CASE("LearnerGroup: a place of the batch for each fed shard, the rest by slots") {
    auto options = Group::options(2);
    options.num_agents = 3;  // shard 0 has agents 0 and 1
    options.num_slots = 12;
    options.fragments_per_batch = 5;
    Group run(options);
    run.arrives(0), run.arrives(1);
    run.called(0);
    const Outputs orders = run.called(1);
    CHECK(run.group.shard_of(1) == 0);
    CHECK(run.group.shard_of(2) == 1);
    CHECK(order(orders, peer(0))->num_slots == 8);
    CHECK(order(orders, peer(0))->first_place == 0);
    CHECK(order(orders, peer(0))->num_places == 3);  // 1 + 3 x 8 / 12
    CHECK(order(orders, peer(1))->first_slot == 8);
    CHECK(order(orders, peer(1))->num_slots == 4);
    CHECK(order(orders, peer(1))->first_place == 3);
    CHECK(order(orders, peer(1))->num_places == 2);
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: a shard whose agents are given up has no places until one is back") {
    CHECK(give_up({3}).empty());  // agent 2 still feeds it
    const Outputs given_up = give_up({2, 3});
    CHECK(event(given_up, "group-broken")->text ==
          "epoch 1: the agents of learner 1 are given up: the others take its share");
    called(0);
    Outputs orders = called(1);
    CHECK(order(orders, peer(0))->num_places == 8);
    CHECK(order(orders, peer(1))->num_places == 0);
    CHECK(order(orders, peer(1))->num_slots == 4);
    formed(0), formed(1);
    CHECK(give_up({2, 3}).empty());
    CHECK(event(give_up({2}), "group-broken")->text == "epoch 2: the agents of learner 1 are back");
    called(0);
    orders = called(1);
    CHECK(order(orders, peer(1))->num_places == 4);
    // When nobody feeds anybody, nobody is better than another.
    formed(0), formed(1);
    give_up({0, 1, 2, 3});
    if (!group.formed()) {
      called(0);
      orders = called(1);
    }
    CHECK(order(orders, peer(0))->num_places == 4);
    CHECK(order(orders, peer(1))->num_places == 4);
  }

  // --- hangs ---

  TEST_CASE_FIXTURE(Two, "LearnerGroup: a shard without a word for 10 s is killed, once") {
    now += LearnerGroup::kSilence - LearnerGroup::kRetry - Time(1);
    formed(0);
    CHECK(count<LearnerGroup::KillLearner>(tick()) == 0);
    const Outputs outputs = tick(Time(1));
    CHECK(outputs.empty());  // its timer has not come
    const Outputs killed = tick();
    REQUIRE(count<LearnerGroup::KillLearner>(killed) == 1);
    CHECK(find<LearnerGroup::KillLearner>(killed)->shard == 1);
    CHECK(find<LearnerGroup::KillLearner>(killed)->incarnation == 0);
    CHECK(find<LearnerGroup::KillLearner>(killed)->signal == SIGKILL);
    CHECK(event(killed, "learner-hung")->text == "learner 1 said nothing for 10 s: killed");
    CHECK(count<LearnerGroup::KillLearner>(tick()) == 0);  // its end follows
  }

  TEST_CASE("LearnerGroup: a process has 120 s from its start to its first status, hello or not") {
    Group run(2);
    run.now += Seconds(60);
    run.arrives(0);
    CHECK(count<LearnerGroup::KillLearner>(run.tick(Seconds(59))) == 0);
    const Outputs first = run.tick(Seconds(1));  // torch takes its time, but not for ever
    REQUIRE(count<LearnerGroup::KillLearner>(first) == 1);
    CHECK(find<LearnerGroup::KillLearner>(first)->shard == 1);
    const Outputs second = run.tick(Seconds(60));
    REQUIRE(count<LearnerGroup::KillLearner>(second) == 1);
    CHECK(find<LearnerGroup::KillLearner>(second)->shard == 0);
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: of shards that stand still for 30 s, the one behind is killed, not who waits") {
    does(0, 10, true), does(1, 9, false);
    CHECK(count<LearnerGroup::KillLearner>(stand_still(Seconds(29), true, false)) == 0);
    const Outputs outputs = stand_still(Seconds(1), true, false);
    REQUIRE(count<LearnerGroup::KillLearner>(outputs) == 1);
    CHECK(find<LearnerGroup::KillLearner>(outputs)->shard == 1);
    CHECK(event(outputs, "learner-hung")->text == "learner 1 computes for 30 s: killed");
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: a shard that makes progress, or waits for fragments, is not hung") {
    uint64_t operations = 0;
    for (int i = 0; i < 10; ++i) {
      does(0, 10, true), does(1, ++operations, false);
      CHECK(count<LearnerGroup::KillLearner>(tick(Seconds(9))) == 0);
    }
    for (int i = 0; i < 10; ++i) {  // shard 1 has nothing to do: its agents are slow
      does(0, 10, true), formed(1);
      CHECK(count<LearnerGroup::KillLearner>(tick(Seconds(9))) == 0);
    }
    for (int i = 0; i < 10; ++i) {  // both compute something long: nobody waits
      does(0, 10, false), does(1, 10, false);
      CHECK(count<LearnerGroup::KillLearner>(tick(Seconds(9))) == 0);
    }
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: where updates take long, standing still has ten medians of them") {
    for (uint64_t iteration = 1; iteration <= 3; ++iteration)  // 1, 4 and 100 s an update: the median is 4
      for (const uint32_t shard : {0u, 1u})
        receive(shard, report(iteration, {{"learner_update_s", iteration == 1   ? 2.0
                                                               : iteration == 2 ? 8.0
                                                                                : 200.0},
                                          {"num_updates", 2.0}}));
    does(0, 10, true), does(1, 9, false);
    CHECK(count<LearnerGroup::KillLearner>(stand_still(Seconds(39), true, false)) == 0);
    CHECK(count<LearnerGroup::KillLearner>(stand_still(Seconds(1), true, false)) == 1);
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: when all wait for each other the next epoch begins, and nobody is killed") {
    does(0, 10, true), does(1, 10, true);
    stand_still(Seconds(29), true, true, 10);
    CHECK(group.epoch() == 1);
    const Outputs outputs = stand_still(Seconds(1), true, true, 10);
    CHECK(count<LearnerGroup::KillLearner>(outputs) == 0);
    CHECK(group.epoch() == 2);
    CHECK(event(outputs, "group-broken")->text == "epoch 1: all wait for each other");
  }

  // --- reports ---

  TEST_CASE_FIXTURE(Two, "LearnerGroup: an iteration is what all shards report: sums, means and maxima") {
    const wire::IterationReportT first = report(1,
                                                {{"loss", 1},
                                                 {"dropped/invalid", 2},
                                                 {"num_bytes_received_since_start", 5},
                                                 {"policy_lag_hist/0", 3},
                                                 {"num_fragments", 4},
                                                 {"num_episodes_left_out", 1},
                                                 {"policy_lag_max", 7},
                                                 {"queue_age_max_s", 0.5},
                                                 {"num_env_failures/nan", 2},
                                                 {"num_observations_out_of_bounds", 1},
                                                 {"numbers/speed/episodes", 2},
                                                 {"numbers/speed/mean_sum", 4},
                                                 {"numbers/speed/mean_min", -1},
                                                 {"numbers/speed/mean_max", 5},
                                                 {"only_here", 3}},
                                                10);
    CHECK(receive(0, wire::IterationReportT(first)).empty());
    CHECK(receive(0, report(1, {{"loss", 9}})).empty());  // said again: the newest word counts
    receive(0, wire::IterationReportT(first));
    const Outputs outputs = receive(1, report(1,
                                              {{"loss", 2},
                                               {"dropped/invalid", 1},
                                               {"num_bytes_received_since_start", 6},
                                               {"policy_lag_hist/0", 1},
                                               {"num_fragments", 3},
                                               {"num_episodes_left_out", 0},
                                               {"policy_lag_max", 2},
                                               {"queue_age_max_s", 0.75},
                                               {"num_env_failures/nan", 3},
                                               {"num_observations_out_of_bounds", 6},
                                               {"numbers/speed/episodes", 1},
                                               {"numbers/speed/mean_sum", -3},
                                               {"numbers/speed/mean_min", -3},
                                               {"numbers/speed/mean_max", -3}},
                                              20));
    const Metrics all = metrics(outputs);
    CHECK(all.at("loss") == 1.5);
    CHECK(all.at("dropped/invalid") == 3);
    CHECK(all.at("num_bytes_received_since_start") == 11);
    CHECK(all.at("policy_lag_hist/0") == 4);
    CHECK(all.at("num_fragments") == 7);
    CHECK(all.at("num_episodes_left_out") == 1);
    CHECK(all.at("policy_lag_max") == 7);
    CHECK(all.at("queue_age_max_s") == 0.75);
    CHECK(all.at("num_env_failures/nan") == 5);
    CHECK(all.at("num_observations_out_of_bounds") == 7);
    CHECK(all.at("numbers/speed/episodes") == 3);
    CHECK(all.at("numbers/speed/mean_sum") == 1);
    CHECK(all.at("numbers/speed/mean_min") == -3);
    CHECK(all.at("numbers/speed/mean_max") == 5);
    CHECK(all.at("only_here") == 3);  // the mean of those who have it
    const auto& merged = find<LearnerGroup::Reported>(outputs)->report;
    CHECK(merged.training_iteration == 1);
    CHECK(merged.num_env_steps_sampled_lifetime == 60);
    CHECK(merged.weights_version == 1);
    REQUIRE(merged.episodes.size() == 2);
    CHECK(merged.episodes[0].episode_return() == 10);
    CHECK(merged.episodes[1].episode_return() == 20);
    CHECK(receive(1, report(1, {})).empty());  // a repeat
    CHECK(receive(1, report(3, {})).empty());  // of an iteration that cannot be
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: what counts since the start goes on over the epochs, whose cores begin at 0") {
    const auto both = [&](uint64_t iteration, double each) {
      const Metrics said{{"dropped/invalid", each},
                         {"num_parcels_received_since_start", each},
                         {"num_env_runners_contributed_since_start", each},
                         {"num_fragments", each}};
      receive(0, report(iteration, said));
      return metrics(receive(1, report(iteration, said)));
    };
    CHECK(both(1, 2).at("dropped/invalid") == 4);
    CHECK(both(2, 5).at("dropped/invalid") == 10);
    broken(0, "x");
    forms({{2}, {2}});
    const Metrics next = both(3, 1);
    CHECK(next.at("dropped/invalid") == 12);
    CHECK(next.at("num_parcels_received_since_start") == 12);
    CHECK(next.at("num_env_runners_contributed_since_start") == 2);  // the cores that follow are told of them
    CHECK(next.at("num_fragments") == 2);                            // of the iteration
    broken(0, "y");
    forms({{3}, {3}});
    CHECK(both(4, 1).at("dropped/invalid") == 14);
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: an iteration whose report died with a shard is reported by the others") {
    receive(0, report(1, {{"loss", 3}, {"num_fragments", 4}}, 10));
    dies(1);
    arrives(1);
    called(0, {1});  // after one iteration
    called(1);
    formed(0);
    const Outputs outputs = formed(1);
    CHECK(event(outputs, "report-lost")->text == "iteration 1 is reported by 1 of its learners");
    const auto* reported = find<LearnerGroup::Reported>(outputs);
    REQUIRE(reported != nullptr);
    CHECK(reported->report.training_iteration == 1);
    CHECK(reported->report.num_env_steps_sampled_lifetime == 100);  // of the group's state
    CHECK(reported->report.weights_version == 1);
    CHECK(metrics(outputs).at("loss") == 3);
    CHECK(receive(0, report(1, {})).empty());  // said again, by its old core's successor or not
    receive(0, report(2, {}));
    CHECK(count<LearnerGroup::Reported>(receive(1, report(2, {}))) == 1);
  }

  // --- checkpoints ---

  TEST_CASE_FIXTURE(Two, "LearnerGroup: a checkpoint is the files of all its shards") {
    CHECK(receive(1, done(1, "learner-1")).empty());
    CHECK(receive(1, done(1, "learner-1")).empty());  // a repeat
    const Outputs outputs = receive(0, done(1, "learner-0"));
    const auto* saved = find<LearnerGroup::Saved>(outputs);
    REQUIRE(saved != nullptr);
    CHECK(saved->done.sequence == 1);
    CHECK(saved->done.training_iteration == 4);
    CHECK(saved->done.error.empty());
    REQUIRE(saved->done.files.size() == 2);
    CHECK(saved->done.files[0]->name == "learner-0");
    CHECK(saved->done.files[1]->name == "learner-1");
    CHECK(receive(0, done(1, "learner-0")).empty());
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: one shard's error ends a checkpoint; the next one begins anew") {
    const Outputs failed = receive(0, done(1, "", "No space left on device"));
    REQUIRE(find<LearnerGroup::Saved>(failed) != nullptr);
    CHECK(find<LearnerGroup::Saved>(failed)->done.error == "No space left on device");
    receive(1, done(2, "learner-1"));
    CHECK(receive(0, done(1, "learner-0")).empty());  // late
    CHECK(find<LearnerGroup::Saved>(receive(0, done(2, "learner-0")))->done.files.size() == 2);
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: what shards of an older epoch wrote is no part of a checkpoint") {
    receive(0, done(1, "learner-0"));
    broken(1, "x");
    CHECK(receive(1, done(1, "learner-1")).empty());  // there is no group
    forms({{4}, {4}});
    CHECK(receive(1, done(1, "learner-1"), 1).empty());
    CHECK(receive(1, done(1, "learner-1")).empty());
    CHECK(count<LearnerGroup::Saved>(receive(0, done(1, "learner-0"))) == 1);
  }

  // --- the rest ---

  TEST_CASE_FIXTURE(Two, "LearnerGroup: what the driver says reaches all shards of a group that is formed") {
    Outputs outputs;
    group.send_all(make_message(wire::CommandT{}), outputs);
    CHECK(sent<wire::CommandT>(outputs, peer(0)) != nullptr);
    CHECK(sent<wire::CommandT>(outputs, peer(1)) != nullptr);
    broken(0, "x");
    outputs.clear();
    group.send_all(make_message(wire::CommandT{}), outputs);
    CHECK(outputs.empty());
  }

  TEST_CASE_FIXTURE(Two, "LearnerGroup: stopped, it tells everybody once and replaces nobody") {
    Outputs outputs;
    group.stop("done", outputs);
    CHECK(sent<wire::StopT>(outputs, peer(0))->reason == "done");
    CHECK(sent<wire::StopT>(outputs, peer(1))->reason == "done");
    outputs.clear();
    group.stop("again", outputs);
    CHECK(outputs.empty());
    CHECK(group.next_timer() == Time::max());
    CHECK(dies(1).empty());
    CHECK(broken(0, "its peer is gone").empty());
    CHECK(dies(0).empty());
    CHECK(group.num_processes() == 0);
  }
}

}  // namespace myriad
