#include "learners/circular_buffer.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/circular_buffer");

namespace {

RandomStream stream(uint64_t seed = 1) { return {seed, StreamPurpose::minibatch, 0}; }
Share batch(int id) { return {.columns = {{"id", at::full({1}, id)}}, .units = {1}}; }
int id_of(const Share& share) { return share.columns.at("id").item<int>(); }

}  // namespace

TEST_CASE("CircularBuffer: every batch is used K times, in an order that the stream decides") {
  const auto order = [](uint64_t seed) {
    RandomStream random = stream(seed);
    CircularBuffer buffer(4, 3);
    for (int i = 0; i < 4; ++i) CHECK(buffer.push(batch(i)) == 0);
    std::vector<int> taken, count(4, 0);
    while (buffer.uses_left() > 0) ++count[static_cast<size_t>(taken.emplace_back(id_of(*buffer.take(random))))];
    CHECK(count == std::vector<int>(4, 3));
    return taken;
  };
  CHECK(order(1) == order(1));
  CHECK(order(1) != order(2));
}

TEST_CASE("CircularBuffer: the batch N pushes older leaves with the uses it had left") {
  RandomStream random = stream();
  CircularBuffer buffer(2, 2);
  buffer.push(batch(0));
  CHECK(id_of(*buffer.take(random)) == 0);
  CHECK(buffer.push(batch(1)) == 0);
  CHECK(buffer.uses_left() == 3);
  CHECK(buffer.push(batch(2)) == 1);
  CHECK(buffer.uses_left() == 4);
  for (int i = 0; i < 4; ++i) CHECK(id_of(*buffer.take(random)) != 0);
  CHECK_THROWS_AS(buffer.take(random), Error);
  CHECK(buffer.push(batch(3)) == 0);  // the place of 1, used up
}

TEST_CASE("CircularBuffer: K takes for each push drop nothing, however the stream falls") {
  RandomStream random = stream();
  CircularBuffer buffer(3, 2);
  int64_t dropped = 0, oldest = 0;
  for (int i = 0; i < 300; ++i) {
    dropped += buffer.push(batch(i));
    while (buffer.uses_left() >= 3) oldest = std::max<int64_t>(oldest, i - id_of(*buffer.take(random)));
  }
  CHECK(dropped == 0);
  CHECK(oldest == 2);
}

TEST_CASE("CircularBuffer: what is added to a batch stays for its next use, until it is erased") {
  RandomStream random = stream();
  CircularBuffer buffer(1, 3);
  buffer.push(batch(0));
  buffer.take(random)->columns["extra"] = at::zeros({1});
  CHECK(buffer.take(random)->columns.contains("extra"));
  buffer.erase("extra");
  buffer.erase("id of another");
  CHECK(!buffer.take(random)->columns.contains("extra"));
}

TEST_SUITE_END();
