#include "env_runners/shared_weights.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "rl/check.hpp"

namespace myriad {
namespace {

Weights filled(uint64_t version, const SharedWeightsLayout& layout) {
  return {version, 1, std::vector<float>(layout.num_values, static_cast<float>(version)),
          std::vector<double>(layout.num_filter, static_cast<double>(version)),
          std::vector<double>(layout.num_published, -static_cast<double>(version))};
}

/// The steps of acquire(), one by one.
struct Steps : SharedWeightsReader {
  using SharedWeightsReader::look, SharedWeightsReader::pin, SharedWeightsReader::SharedWeightsReader;
};

TEST_SUITE("env_runners/shared_weights") {
  TEST_CASE("SharedWeights: a reader sees the newest version in place, with its filter and curriculum") {
    const SharedWeightsLayout layout{.num_values = 5, .num_filter = 3, .num_published = 7};
    SharedMemory region = SharedMemory::create("test", layout.bytes(), true);
    SharedWeightsWriter writer(layout, region.data());
    RunnerPage page;
    SharedWeightsReader reader(layout, region.data(), page);
    CHECK_FALSE(reader.acquire());
    const auto nobody = [](uint32_t) { return false; };
    REQUIRE(writer.publish(filled(7, layout), nobody));
    REQUIRE(writer.publish(filled(9, layout), nobody));
    const auto view = reader.acquire();
    REQUIRE(view);
    CHECK(view->version == 9);
    CHECK(view->values.size() == 5);
    CHECK(view->values[4] == 9.0f);
    CHECK(view->filter[2] == 9.0);
    CHECK(view->published.size() == 7);
    CHECK(view->published[6] == -9.0);
    Weights without = filled(10, layout);
    without.published.clear();
    CHECK_THROWS_AS(writer.publish(without, nobody), Error);
    CHECK(reinterpret_cast<const std::byte*>(view->values.data()) > region.data());
  }

  TEST_CASE("SharedWeights: pinned buffers are not written to; when all are, publishing waits") {
    const SharedWeightsLayout layout{.num_values = 4, .num_filter = 0};
    SharedMemory region = SharedMemory::create("test", layout.bytes(), true);
    SharedWeightsWriter writer(layout, region.data());
    std::array<RunnerPage, SharedWeightsLayout::kBuffers> pages;
    const auto pinned = [&](uint32_t buffer) {
      for (const RunnerPage& page : pages)
        if (page.pinned == buffer + 1) return true;
      return false;
    };
    std::vector<WeightsView> views;
    std::vector<SharedWeightsReader> readers;
    for (uint64_t i = 0; i < pages.size(); ++i) {
      REQUIRE(writer.publish(filled(i, layout), pinned));
      readers.emplace_back(layout, region.data(), pages[i]);
      views.push_back(*readers.back().acquire());
    }
    CHECK_FALSE(writer.publish(filled(100, layout), pinned));
    for (uint64_t i = 0; i < views.size(); ++i) CHECK(views[i].values[0] == static_cast<float>(i));
    readers[3].release();
    CHECK(writer.publish(filled(101, layout), pinned));
    CHECK(views[2].values[0] == 2.0f);
    CHECK(readers[3].acquire()->version == 101);
  }

  TEST_CASE("SharedWeights: what is not the newest any more when it is pinned is not read, but the newest") {
    // Buffers: 1 lies in the first, 2 in the second, 3 in the first again, and so on: after an even number of versions
    // between the look and the pin, the buffer that was looked at has been written to.
    const SharedWeightsLayout layout{.num_values = 4, .num_filter = 0};
    for (uint64_t between = 0; between < 5; ++between) {
      CAPTURE(between);
      SharedMemory region = SharedMemory::create("test", layout.bytes(), true);
      SharedWeightsWriter writer(layout, region.data());
      RunnerPage page;
      Steps reader(layout, region.data(), page);
      const auto pinned = [&](uint32_t buffer) { return page.pinned == buffer + 1; };
      REQUIRE(writer.publish(filled(1, layout), pinned));
      const uint64_t seen = reader.look();
      for (uint64_t version = 2; version < 2 + between; ++version)
        REQUIRE(writer.publish(filled(version, layout), pinned));
      CHECK(reader.pin(seen).has_value() == (between == 0));
      const auto view = reader.acquire();
      REQUIRE(view);
      CHECK(view->version == 1 + between);
      for (uint64_t version = 50; version < 60; ++version) REQUIRE(writer.publish(filled(version, layout), pinned));
      for (const float value : view->values) CHECK(value == static_cast<float>(1 + between));
    }
  }

  TEST_CASE("SharedWeights: no reader ever sees a torn version while the writer goes on") {
    const SharedWeightsLayout layout{.num_values = 20'000, .num_filter = 0};
    SharedMemory region = SharedMemory::create("test", layout.bytes(), true);
    SharedWeightsWriter writer(layout, region.data());
    RunnerPage page;
    const auto pinned = [&](uint32_t buffer) { return page.pinned == buffer + 1; };
    REQUIRE(writer.publish(filled(1, layout), pinned));
    std::atomic<bool> torn = false, backwards = false, stop = false;
    std::atomic<uint64_t> reads = 0, late = 0, writing = 1;
    std::thread reader_thread([&] {
      Steps reader(layout, region.data(), page);
      for (uint64_t turn = 0, last = 0; !stop; ++turn) {
        const uint64_t newest = reader.look();
        // Every other time it is late: the version after the next is being written, where the newest was.
        if (turn % 2 == 1)
          for (++late; !stop && writing < (newest >> 8) + 2;) continue;
        if (const auto view = reader.pin(newest)) {
          for (const float value : view->values) torn = torn || value != static_cast<float>(view->version);
          backwards = backwards || view->version < last;
          last = view->version;
          ++reads;
        }
        reader.release();
      }
    });
    bool published = true;
    for (uint64_t version = 2; version < 5'000 || reads < 500 || late < 500; ++version) {
      const Weights weights = filled(version & 0xffffff, layout);
      writing = version;
      published = published && writer.publish(weights, pinned);
    }
    stop = true;
    reader_thread.join();
    CHECK(published);
    CHECK_FALSE(torn);
    CHECK_FALSE(backwards);
  }

  TEST_CASE("SharedMemory: what a runner gets it cannot write, shrink or grow") {
    SharedMemory region = SharedMemory::create("test", 4096, true);
    CHECK(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd(), 0) == MAP_FAILED);
    CHECK(::ftruncate(region.fd(), 8192) != 0);
    CHECK(::ftruncate(region.fd(), 0) != 0);
    CHECK_THROWS_AS(SharedMemory::map(::dup(region.fd()), 8192, false), Error);
    const SharedMemory view = SharedMemory::map(::dup(region.fd()), 4096, false);
    region.data()[17] = std::byte{42};
    CHECK(view.data()[17] == std::byte{42});
    const int plain = ::memfd_create("plain", MFD_CLOEXEC);
    REQUIRE(::ftruncate(plain, 4096) == 0);
    CHECK_THROWS_AS(SharedMemory::map(plain, 4096, false), Error);  // could shrink under the agent's feet
  }
}

}  // namespace
}  // namespace myriad
