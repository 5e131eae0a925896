#include "learners/device/device_support.hpp"

#include <doctest/doctest.h>

#include <array>

#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/device/device_support");

TEST_CASE("device_index: learners go around the GPUs, and a number is that GPU") {
  for (uint32_t shard = 0; shard < 6; ++shard) CHECK(device_index("cuda", shard, 4) == static_cast<int>(shard % 4));
  CHECK(device_index("cuda", 5, 1) == 0);
  CHECK(device_index("cuda:2", 5, 4) == 2);
  CHECK_THROWS_WITH_AS(device_index("cuda:4", 0, 4), doctest::Contains("GPUs 0 to 3"), Error);
  for (const char* wrong : {"cuda:", "cuda:x", "cuda:-1", "cuda:1x", "gpu", ""}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH_AS(device_index(wrong, 0, 4), doctest::Contains("want cpu, cuda or cuda:N"), Error);
  }
}

TEST_CASE("open_device: without a GPU the error names what is missing") {
  if (why_no_cuda().empty()) {
    MESSAGE("this machine has a GPU");
    return;
  }
  try {
    open_device("cuda", 0);
    FAIL("opened");
  } catch (const Error& error) {
    CHECK(error.exit_status() == Exit::environment);
    CHECK(error.code() == "no-gpu");
    CHECK(std::string(error.what()) == "learners.device is 'cuda': " + why_no_cuda());
  }
  CHECK_THROWS_WITH_AS(open_device("tpu", 0), doctest::Contains("want cpu, cuda or cuda:N"), Error);
}

TEST_CASE("CpuSupport: copies there and back, and keeps what was copied") {
  const std::unique_ptr<DeviceSupport> cpu = make_cpu_support();
  const std::array<float, 3> from{1, 2, 3};
  std::array<float, 3> to{};
  cpu->run([&] {
    cpu->upload(std::as_bytes(std::span(from)), to.data());
    cpu->begin_download(to.data(), sizeof to);
  });
  to = {};
  const auto* back = reinterpret_cast<const float*>(cpu->downloaded().data());
  CHECK(std::equal(from.begin(), from.end(), back));
  CHECK(cpu->record([] {}) == nullptr);
}

TEST_SUITE_END();
