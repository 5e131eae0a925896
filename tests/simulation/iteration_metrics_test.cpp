#include "roles/iteration_metrics.hpp"

#include <doctest/doctest.h>

namespace myriad {
namespace {

FragmentFacts fragment(uint64_t lag, double episode_return, double queue_s = 0) {
  FragmentFacts facts;
  facts.policy_lag = lag;
  facts.queue_age = seconds(queue_s);
  facts.sampling_ns = 2'000'000'000;
  facts.waiting_ns = 500'000'000;
  facts.episodes.emplace_back(episode_return, 1, 0, 0);
  return facts;
}

}  // namespace

TEST_SUITE("roles/iteration_metrics") {
  TEST_CASE("IterationMetrics: a name says whether the last, the sum or the mean counts") {
    const std::string policy = "learners/default_policy/";
    CHECK(combine_of(policy + "num_module_steps_trained_lifetime") == Combine::last);
    CHECK(combine_of(policy + "num_trainable_parameters") == Combine::last);
    CHECK(combine_of(policy + "curr_kl_coeff") == Combine::last);
    CHECK(combine_of(policy + "default_optimizer_learning_rate") == Combine::last);
    CHECK(combine_of(policy + "num_module_steps_trained") == Combine::sum);
    CHECK(combine_of("learner_update_s") == Combine::sum);
    CHECK(combine_of("num_grads") == Combine::sum);
    CHECK(combine_of(policy + "vf_loss") == Combine::mean);
    IterationMetrics metrics;
    metrics.add_update({{"loss", 1}, {"learner_update_s", 0.5}, {"curr_x", 3}});
    metrics.add_update({{"loss", 3}, {"learner_update_s", 0.25}, {"curr_x", 4}, {"kl", 7}});
    std::vector<wire::Episode> episodes;
    const auto rows = metrics.take(1, episodes);
    CHECK(rows.at("loss") == 2);
    CHECK(rows.at("learner_update_s") == 0.75);
    CHECK(rows.at("curr_x") == 4);
    CHECK(rows.at("kl") == 7);  // of the updates that have it
    CHECK(rows.at("num_updates") == 2);
  }

  TEST_CASE("IterationMetrics: lags, ages and times of the fragments") {
    IterationMetrics metrics;
    for (int i = 0; i < 19; ++i) metrics.add_fragment(fragment(i == 0 ? 0 : 1, i, 1));
    metrics.add_fragment(fragment(40, 19, 3));
    std::vector<wire::Episode> episodes;
    auto rows = metrics.take(2, episodes);
    CHECK(rows.at("policy_lag_mean") == doctest::Approx(58.0 / 20));
    CHECK(rows.at("policy_lag_p95") == 1);  // 19 of 20 have at most 1
    CHECK(rows.at("policy_lag_max") == 40);
    CHECK(rows.at("policy_lag_hist/0") == 1);
    CHECK(rows.at("policy_lag_hist/1") == 18);
    CHECK(rows.at("policy_lag_hist/17-32") == 0);
    CHECK(rows.at("policy_lag_hist/33+") == 1);
    CHECK(rows.at("queue_age_mean_s") == doctest::Approx(1.1));
    CHECK(rows.at("queue_age_max_s") == 3);
    CHECK(rows.at("sampling_s") == 20);  // 20 x 2 s by 2 runners
    CHECK(rows.at("waiting_s") == 5);    // 20 x 0.5 s
    CHECK(rows.at("fragment_sampling_s") == doctest::Approx(2));
    CHECK(rows.at("fragment_waiting_s") == 0.5);
    CHECK(rows.at("num_fragments") == 20);
    CHECK(rows.at("num_updates") == 0);
    CHECK(rows.at("num_episodes_left_out") == 0);
    REQUIRE(episodes.size() == 20);
    CHECK(episodes[19].episode_return() == 19);
    rows = metrics.take(2, episodes);  // the next iteration begins at nothing
    CHECK(episodes.empty());
    CHECK(rows.at("num_fragments") == 0);
    for (const auto& [key, value] : rows) {
      CAPTURE(key);
      CHECK(value == 0);
    }
    for (int i = 0; i < 18; ++i) metrics.add_fragment(fragment(3, i, 1));
    for (int i = 0; i < 2; ++i) metrics.add_fragment(fragment(5, i, 1));
    CHECK(metrics.take(2, episodes).at("policy_lag_p95") == 5);  // 18 of 20 are not enough
  }

  TEST_CASE("IterationMetrics: failures add up by cause, numbers of episodes over fragments") {
    const auto numbers = [](const char* name, uint64_t episodes, double sum, double min, double max, double last) {
      wire::NumberStatsT stats;
      stats.name = name;
      stats.episodes = episodes;
      stats.mean_sum = sum, stats.mean_min = min, stats.mean_max = max, stats.last_sum = last;
      return stats;
    };
    IterationMetrics metrics;
    FragmentFacts facts = fragment(0, 1);
    facts.failures = {2, 0, 1, 0, 0, 0, 7};  // the last of a newer peer
    facts.outside = 4;
    facts.numbers = {numbers("is_success", 2, 1.5, 0.5, 1, 2), numbers("none", 0, 0, 0, 0, 0)};
    metrics.add_fragment(facts);
    facts.failures = {1};
    facts.numbers = {numbers("is_success", 1, 0.25, 0.25, 0.25, 0)};
    metrics.add_fragment(facts);
    std::vector<wire::Episode> episodes;
    auto rows = metrics.take(1, episodes);
    CHECK(rows.at("num_env_failures/exception") == 3);
    CHECK(rows.at("num_env_failures/out_of_bounds") == 1);
    CHECK(rows.at("num_env_failures/nan") == 0);
    CHECK(rows.at("num_observations_out_of_bounds") == 8);
    CHECK(rows.at("numbers/is_success/episodes") == 3);
    CHECK(rows.at("numbers/is_success/mean_sum") == 1.75);
    CHECK(rows.at("numbers/is_success/mean_min") == 0.25);
    CHECK(rows.at("numbers/is_success/mean_max") == 1);
    CHECK(rows.at("numbers/is_success/last_sum") == 2);
    CHECK(!rows.contains("numbers/none/episodes"));
    rows = metrics.take(1, episodes);
    CHECK(rows.at("num_env_failures/exception") == 0);
    CHECK(!rows.contains("numbers/is_success/episodes"));
  }

  TEST_CASE("IterationMetrics: the bins of the lags") {
    for (const auto& [lag, bin] : {std::pair<uint64_t, const char*>{2, "2"},
                                   {3, "3-4"},
                                   {4, "3-4"},
                                   {5, "5-8"},
                                   {9, "9-16"},
                                   {16, "9-16"},
                                   {32, "17-32"},
                                   {33, "33+"}}) {
      IterationMetrics metrics;
      metrics.add_fragment(fragment(lag, 0));
      std::vector<wire::Episode> episodes;
      CHECK(metrics.take(1, episodes).at(std::string("policy_lag_hist/") + bin) == 1);
    }
  }

  TEST_CASE("IterationMetrics: a report holds the newest episodes, and says how many it does not") {
    IterationMetrics metrics;
    FragmentFacts facts;
    for (size_t i = 0; i < IterationMetrics::kMaxEpisodes + 5; ++i)
      facts.episodes.emplace_back(static_cast<double>(i), 1, 0, 0);
    metrics.add_fragment(std::move(facts));
    std::vector<wire::Episode> episodes;
    CHECK(metrics.take(1, episodes).at("num_episodes_left_out") == 5);
    CHECK(episodes.size() == IterationMetrics::kMaxEpisodes);
    CHECK(episodes[0].episode_return() == 5);
    wire::IterationReportT report;
    report.episodes = episodes;
    CHECK_NOTHROW((void)encode(make_message(std::move(report))));
  }
}

}  // namespace myriad
