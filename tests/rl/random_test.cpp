#include "rl/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

namespace myriad {
namespace {

using Block = std::array<uint32_t, 4>;

std::vector<uint64_t> draw(RandomStream stream, int count) {
  std::vector<uint64_t> values;
  for (int i = 0; i < count; ++i) values.push_back(stream.next_u64());
  return values;
}

}  // namespace

TEST_SUITE("rl/random") {
  TEST_CASE("philox4x32: the known answers of Random123's kat_vectors") {
    CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
          Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
          Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  }

  TEST_CASE("RandomStream: a value is half a block of its counter, low word first") {
    RandomStream stream(0x0000000200000001, StreamPurpose::action, 7);
    const Block first = philox4x32({0, 0, 7, 2}, {1, 2});
    const Block second = philox4x32({1, 0, 7, 2}, {1, 2});
    CHECK(stream.next_u64() == (uint64_t{first[1]} << 32 | first[0]));
    CHECK(stream.next_u64() == (uint64_t{first[3]} << 32 | first[2]));
    CHECK(stream.next_u64() == (uint64_t{second[1]} << 32 | second[0]));
  }

  TEST_CASE("RandomStream: set_position goes on exactly where a stream was, at odd and even positions") {
    for (const int drawn : {0, 1, 2, 5, 8}) {
      RandomStream original(42, StreamPurpose::environment, 3);
      for (int i = 0; i < drawn; ++i) original.next_u64();
      CHECK(original.position() == static_cast<uint64_t>(drawn));
      RandomStream resumed(42, StreamPurpose::environment, 3);
      resumed.set_position(original.position());
      CHECK(draw(resumed, 9) == draw(original, 9));
    }
    RandomStream far(42, StreamPurpose::environment, 3);
    far.set_position((uint64_t{1} << 40) + 1);  // the block's number needs its upper word
    RandomStream beyond(42, StreamPurpose::environment, 3);
    beyond.set_position(1);
    CHECK(draw(far, 4) != draw(beyond, 4));
  }

  TEST_CASE("RandomStream: other seeds, purposes and indices draw other numbers, the same name the same") {
    CHECK(draw({1, StreamPurpose::action, 0}, 8) == draw({1, StreamPurpose::action, 0}, 8));
    std::set<uint64_t> values;
    size_t drawn = 0;
    for (const uint64_t seed : {uint64_t{1}, uint64_t{2}, uint64_t{1} << 32})
      for (const StreamPurpose purpose :
           {StreamPurpose::environment, StreamPurpose::action, StreamPurpose::minibatch, StreamPurpose::initial_weights,
            StreamPurpose::evaluation, StreamPurpose::simulation})
        for (const uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{9999}, uint64_t{1} << 32})
          for (const uint64_t value : draw({seed, purpose, index}, 8)) {
            values.insert(value);
            ++drawn;
          }
    CHECK(drawn == 3 * 6 * 4 * 8);
    CHECK(values.size() == drawn);  // a repeat by chance: 576^2 / 2^65
  }

  TEST_CASE("RandomStream: neighbouring streams are uncorrelated") {
    const int n = 100'000;
    RandomStream a(7, StreamPurpose::environment, 0), b(7, StreamPurpose::environment, 1);
    double product = 0.0;
    for (int i = 0; i < n; ++i) product += (a.uniform() - 0.5) * (b.uniform() - 0.5);
    const double correlation = product / n * 12.0;      // the variance of a uniform is 1/12
    CHECK(std::abs(correlation) < 5.0 / std::sqrt(n));  // five standard errors
  }

  TEST_CASE("uniform: in [0, 1), mean 1/2, variance 1/12") {
    const int n = 200'000;
    RandomStream random(1, StreamPurpose::action, 0);
    double sum = 0.0, squares = 0.0, lowest = 1.0, highest = 0.0;
    for (int i = 0; i < n; ++i) {
      const double u = random.uniform();
      sum += u;
      squares += u * u;
      lowest = std::min(lowest, u);
      highest = std::max(highest, u);
    }
    const double mean = sum / n;
    CHECK(lowest >= 0.0);
    CHECK(highest < 1.0);
    CHECK(mean == doctest::Approx(0.5).epsilon(0.006));  // 5 standard errors are 0.0032
    CHECK(squares / n - mean * mean == doctest::Approx(1.0 / 12).epsilon(0.01));
    CHECK(random.uniform(-3.0, -1.0) < -1.0);
    CHECK(random.uniform(-3.0, -1.0) >= -3.0);
  }

  TEST_CASE("normal: mean 0, variance 1, skewness 0, kurtosis 3, two values of the stream each") {
    const int n = 200'000;
    RandomStream random(2, StreamPurpose::action, 0);
    double m1 = 0.0, m2 = 0.0, m3 = 0.0, m4 = 0.0;
    for (int i = 0; i < n; ++i) {
      const double x = random.normal();
      REQUIRE(std::isfinite(x));
      m1 += x;
      m2 += x * x;
      m3 += x * x * x;
      m4 += x * x * x * x;
    }
    CHECK(random.position() == 2 * n);
    // five standard errors: 1, sqrt(2), sqrt(15) and sqrt(96) over sqrt(n), times five
    CHECK(std::abs(m1 / n) < 0.0112);
    CHECK(std::abs(m2 / n - 1.0) < 0.0159);
    CHECK(std::abs(m3 / n) < 0.0434);
    CHECK(std::abs(m4 / n - 3.0) < 0.11);
  }

  TEST_CASE("below: every value of a small range equally often, never the bound") {
    const uint64_t n = 7;
    const int draws = 70'000;
    RandomStream random(3, StreamPurpose::minibatch, 0);
    std::array<int, n> counts{};
    for (int i = 0; i < draws; ++i) {
      const uint64_t value = random.below(n);
      REQUIRE(value < n);
      ++counts[value];
    }
    double chi_square = 0.0;  // 6 degrees of freedom: above 22.5 once in a thousand
    for (const int count : counts) chi_square += (count - 1e4) * (count - 1e4) / 1e4;
    CHECK(chi_square < 22.5);
  }

  TEST_CASE("below: one value for 1, and the whole range for large bounds") {
    RandomStream random(4, StreamPurpose::minibatch, 0);
    for (int i = 0; i < 10; ++i) CHECK(random.below(1) == 0);
    const uint64_t huge = 3 * (uint64_t{1} << 62);  // a modulo would make the lowest third twice as likely
    int low = 0;
    for (int i = 0; i < 30'000; ++i) low += random.below(huge) < (uint64_t{1} << 62) ? 1 : 0;
    CHECK(std::abs(low - 10'000) < 409);  // five standard deviations of 81.6
  }

  TEST_CASE("shuffle: a permutation, each item equally often in each place") {
    RandomStream random(5, StreamPurpose::minibatch, 0);
    std::array<std::array<int, 4>, 4> where{};  // [item][place]
    for (int round = 0; round < 24'000; ++round) {
      std::array<int, 4> items{};
      std::iota(items.begin(), items.end(), 0);
      shuffle(std::span<int>(items), random);
      std::array<int, 4> sorted = items;
      std::sort(sorted.begin(), sorted.end());
      REQUIRE(sorted == std::array<int, 4>{0, 1, 2, 3});
      for (size_t place = 0; place < 4; ++place) ++where[static_cast<size_t>(items[place])][place];
    }
    for (const auto& places : where)
      for (const int count : places) CHECK(std::abs(count - 6000) < 336);  // five standard deviations of 67.1
    std::array<int, 0> none{};
    shuffle(std::span<int>(none), random);
  }
}

}  // namespace myriad
