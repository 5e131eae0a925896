#include "learners/device/recorded_work.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <vector>

#include "learners/group/collective.hpp"
#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/device/recorded_work");

namespace {

/// Notes what is recorded; replays nothing but a mark.
class Tape final : public DeviceSupport {
 public:
  c10::Device device() const override { return c10::kCPU; }
  void run(const std::function<void()>& work) override { work(); }
  void upload(std::span<const std::byte>, void*) override {}
  void begin_download(const void*, size_t) override {}
  std::span<const std::byte> downloaded() override { return {}; }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    struct Graph final : DeviceGraph {
      explicit Graph(int& r) : replays(r) {}
      void replay() override { ++replays; }
      int& replays;
    };
    if (broken) throw std::runtime_error("no room");
    ++recordings;
    work();  // queued, not done: it counts as a call all the same
    return std::make_unique<Graph>(replays);
  }

  bool broken = false;
  int recordings = 0, replays = 0;
};

}  // namespace

TEST_CASE("RecordedWork: runs twice, records at the third time and replays from then on, each shape for itself") {
  Tape tape;
  RecordedWork work(tape, true);
  int calls = 0;
  for (const char* shape : {"a", "a", "b", "a", "a", "b", "b"}) work.run(shape, {}, [&] { ++calls; });
  CHECK(tape.recordings == 2);
  CHECK(tape.replays == 3);  // a's third and fourth, b's third
  CHECK(calls == 4 + 2);     // two warm-ups and one recording each
  CHECK(work.counts() == std::map<std::string, int64_t>{{"replayed", 3}, {"warm_up", 4}});
}

TEST_CASE("RecordedWork: what is forgotten warms up again, and is counted with its reason") {
  Tape tape;
  RecordedWork work(tape, true);
  work.forget("layout");  // nothing to forget
  for (int i = 0; i < 3; ++i) work.run("a", {}, [] {});
  work.forget("layout");
  work.run("a", {}, [] {});
  CHECK(work.counts() == std::map<std::string, int64_t>{{"forgotten_layout", 1}, {"replayed", 1}, {"warm_up", 3}});
}

TEST_CASE("RecordedWork: where it is off, or the device cannot, everything runs and the reason is counted") {
  Tape tape;
  RecordedWork off(tape, false);
  int calls = 0;
  for (int i = 0; i < 5; ++i) off.run("a", {}, [&] { ++calls; });
  CHECK(calls == 5);
  CHECK(tape.recordings == 0);
  CHECK(off.counts() == std::map<std::string, int64_t>{{"off", 5}});

  tape.broken = true;
  RecordedWork broken(tape, true);
  for (int i = 0; i < 5; ++i) broken.run("a", {}, [&] { ++calls; });
  CHECK(calls == 10);
  CHECK(broken.failure() == "no room");
  CHECK(broken.counts() == std::map<std::string, int64_t>{{"not_recorded", 3}, {"warm_up", 2}});

  const std::unique_ptr<DeviceSupport> cpu = make_cpu_support();
  RecordedWork nothing(*cpu, true);
  for (int i = 0; i < 3; ++i) nothing.run("a", {}, [&] { ++calls; });
  CHECK(calls == 13);
  CHECK(!nothing.failure().empty());
}

TEST_CASE("RecordedWork: a group that breaks amid a recording is told, and the next one is recorded again") {
  Tape tape;
  RecordedWork work(tape, true);
  bool whole = true;
  const auto step = [&] {
    if (!whole) throw GroupBroken("a peer died");
  };
  for (int i = 0; i < 2; ++i) work.run("a", {}, step);
  whole = false;
  CHECK_THROWS_AS(work.run("a", {}, step), GroupBroken);
  CHECK(work.failure().empty());
  whole = true;
  work.forget("group");
  for (int i = 0; i < 3; ++i) work.run("a", {}, step);
  CHECK(work.counts().at("replayed") == 1);
  // The second time it may be the recording that breaks it: no more of them.
  for (int i = 0; i < 2; ++i) work.run("b", {}, step);
  whole = false;
  CHECK_THROWS_AS(work.run("b", {}, step), GroupBroken);
  CHECK(work.failure() == "a peer died");
  whole = true;
  for (int i = 0; i < 3; ++i) work.run("b", {}, step);
  CHECK(work.counts().at("not_recorded") == 3);
}

TEST_CASE("RecordedWork: memory that moved under a recording is an error, not a wrong result") {
  Tape tape;
  RecordedWork work(tape, true);
  std::vector<at::Tensor> tensors{at::zeros({4})};
  for (int i = 0; i < 3; ++i) work.run("a", tensors, [] {});
  const at::Tensor old = tensors[0];
  tensors[0] = at::zeros({4});
  CHECK_THROWS_AS(work.run("a", tensors, [] {}), Error);
}

TEST_CASE("RecordedWork: too many shapes run as they are") {
  Tape tape;
  RecordedWork work(tape, true);
  for (int shape = 0; shape < 20; ++shape) work.run(std::to_string(shape), {}, [] {});
  CHECK(work.counts() == std::map<std::string, int64_t>{{"too_many_shapes", 4}, {"warm_up", 16}});
}

TEST_SUITE_END();
