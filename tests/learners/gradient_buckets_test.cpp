#include "learners/group/gradient_buckets.hpp"

#include <doctest/doctest.h>

#include "rl/space.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/group/gradient_buckets");

namespace {

std::vector<Parameter> tensors_of(const std::vector<size_t>& counts) {
  std::vector<Parameter> tensors;
  size_t offset = 0;
  for (const size_t count : counts) tensors.push_back({"", {}, std::exchange(offset, offset + count), count});
  return tensors;
}

}  // namespace

TEST_CASE("GradientBuckets: from the end, of at least so many floats, each begun in order and once it is whole") {
  GradientBuckets buckets(tensors_of({10, 5, 20, 1, 7}), 8);
  CHECK(buckets.size() == 3);
  std::vector<Range> begun;
  const auto start = [&] {
    begun.clear();
    buckets.start([&](Range range) { begun.push_back(range); });
  };
  const std::vector<Range> all{{35, 43}, {15, 35}, {0, 15}};
  start();
  CHECK(buckets.started());
  buckets.done(2);  // before its turn
  buckets.done(4);
  CHECK(begun.empty());
  buckets.done(3);
  CHECK(begun == std::vector<Range>{all[0], all[1]});
  buckets.done(0);
  CHECK(begun.size() == 2);
  buckets.rest();
  CHECK(begun == all);
  CHECK(!buckets.started());
  buckets.done(1);  // of a pass that sums nothing
  CHECK(begun == all);
  start();
  buckets.rest();  // a shard without rows
  CHECK(begun == all);
}

TEST_CASE("GradientBuckets: none where nothing would overlap") {
  CHECK(GradientBuckets().size() == 0);
  CHECK(GradientBuckets(tensors_of({10, 5}), 0).size() == 0);
  CHECK(GradientBuckets(tensors_of({10, 5}), 15).size() == 0);
  CHECK(GradientBuckets(tensors_of({10, 5}), 5).size() == 2);
}

TEST_SUITE_END();
