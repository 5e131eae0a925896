#include "rl/check.hpp"

#include <doctest/doctest.h>

#include <vector>

namespace myriad {

TEST_SUITE("rl/check") {
  const std::vector<std::string> kKnown = {"learning_rate", "gamma", "train_batch_size"};

  TEST_CASE("fail: the error carries exit status, code and the line main() prints") {
    try {
      fail(Exit::usage, "unknown-key", "cartpole.toml:{}: no {}", 3, "gama");
      FAIL("fail returned");
    } catch (const Error& error) {
      CHECK(error.exit_status() == Exit::usage);
      CHECK(static_cast<int>(error.exit_status()) == 2);
      CHECK(error.code() == "unknown-key");
      CHECK(std::string(error.what()) == "cartpole.toml:3: no gama");
      CHECK(error.line() == "error[unknown-key] cartpole.toml:3: no gama");
    }
  }

  TEST_CASE("check: silent when it holds, an internal error when it does not") {
    CHECK_NOTHROW(check(true, "x has {} rows, want {}", 2, 2));
    try {
      check(false, "x has {} rows, want {}", 2, 3);
      FAIL("check returned");
    } catch (const Error& error) {
      CHECK(error.exit_status() == Exit::internal);
      CHECK(error.line() == "error[internal] x has 2 rows, want 3");
    }
  }

  TEST_CASE("Exit: the statuses scripts rely on") {
    CHECK(static_cast<int>(Exit::ok) == 0);
    CHECK(static_cast<int>(Exit::environment) == 3);
    CHECK(static_cast<int>(Exit::resource) == 4);
    CHECK(static_cast<int>(Exit::internal) == 5);
    CHECK(static_cast<int>(Exit::interrupted) == 130);
  }

  TEST_CASE("nearest_name: the closest by edit distance, none when all are far") {
    CHECK(nearest_name("learning_rte", kKnown) == "learning_rate");  // one deletion
    CHECK(nearest_name("gama", kKnown) == "gamma");                  // one deletion
    CHECK(nearest_name("agmma", kKnown) == "gamma");                 // two substitutions
    CHECK(nearest_name("gamma", kKnown) == "gamma");
    CHECK(nearest_name("xyz", kKnown).empty());  // 5 edits from gamma, more than 2 allowed
    CHECK(nearest_name("", kKnown).empty());
    CHECK(nearest_name("gamma", {}).empty());
  }

  TEST_CASE("nearest_name: a long name may differ in a third of its letters, of equals the first wins") {
    CHECK(nearest_name("train_bach_sice", kKnown) == "train_batch_size");   // 2 edits, 5 allowed
    CHECK(nearest_name("train_bxxch_xxxe", kKnown) == "train_batch_size");  // 5 substitutions, 16 / 3 = 5 allowed
    CHECK(nearest_name("train_xxxxx_xxxe", kKnown).empty());                // 8 substitutions
    CHECK(nearest_name("ab", std::vector<std::string>{"ac", "ad"}) == "ac");
  }

  TEST_CASE("nearest_name: a beginning of four letters or more means the shortest name that begins so") {
    const std::vector<std::string> known{"MountainCarContinuous-v0", "MountainCar-v0", "Ant-v5"};
    CHECK(nearest_name("mountaincar", known) == "MountainCar-v0");
    CHECK(nearest_name("Mou", known).empty());
  }

  TEST_CASE("suggestion: the near name, else the known ones, else nothing") {
    CHECK(suggestion("learning_rte", kKnown) == "; did you mean learning_rate?");
    CHECK(suggestion("zzz", kKnown) == "; known: learning_rate, gamma, train_batch_size");
    CHECK(suggestion("zzz", {}).empty());
  }
}

}  // namespace myriad
