#include "learners/group/collective.hpp"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "rl/random.hpp"
#include "rl/shared_memory.hpp"
#include "tests/learners/gloo_group.hpp"
#include "tests/temporary_folder.hpp"

using namespace myriad;
using namespace std::chrono_literals;

TEST_SUITE_BEGIN("learners/group/collective");

namespace {

using Group = std::vector<std::shared_ptr<Collective>>;

constexpr auto no_deadline = 1h;  // what waits this long is cut by the test's time limit

template <class T>
std::vector<T> random_values(size_t count, uint32_t rank) {
  RandomStream random(5, StreamPurpose::simulation, rank);
  std::vector<T> values(count);
  for (T& x : values) x = static_cast<T>(random.normal());
  return values;
}

/// What each shard has after all-reduce.
template <class T>
std::vector<std::vector<T>> all_reduced(const Group& group, size_t count) {
  std::vector<std::vector<T>> results(group.size());
  in_threads(static_cast<uint32_t>(group.size()), [&](uint32_t r) {
    results[r] = random_values<T>(count, r);
    group[r]->all_reduce(std::span<T>(results[r]));
  });
  return results;
}

template <class T>
void check_sums(const Group& group, const Group& again, size_t count, double tolerance) {
  CAPTURE(group.size());
  CAPTURE(count);
  const auto results = all_reduced<T>(group, count);
  std::vector<double> want(count, 0.0);
  for (uint32_t r = 0; r < group.size(); ++r) {
    const auto part = random_values<T>(count, r);
    for (size_t i = 0; i < count; ++i) want[i] += static_cast<double>(part[i]);
  }
  double worst = 0;
  for (size_t i = 0; i < count; ++i) worst = std::max(worst, std::abs(static_cast<double>(results[0][i]) - want[i]));
  CHECK(worst <= tolerance);
  for (const auto& other : results) CHECK(other == results[0]);
  CHECK(all_reduced<T>(again, count)[0] == results[0]);
}

bool breaks(const std::function<void()>& f) {
  try {
    f();
    return false;
  } catch (const GroupBroken&) { return true; }
}

void wait_until_inside(const Collective& collective) {
  while (!collective.inside()) std::this_thread::yield();
}

void sum(Collective& collective, size_t count = 100'000) {
  std::vector<float> values(count, 1.0f);
  collective.all_reduce(values);
}

/// Whether ranks 0 and 1 break in f(rank), which waits for a rank 2 that never comes and is aborted.
std::array<bool, 2> aborted_in(const Group& group, const std::function<void(uint32_t)>& f) {
  std::array<bool, 2> broke{};
  in_threads(3, [&](uint32_t r) {
    if (r == 2) {
      for (const uint32_t other : {0u, 1u}) wait_until_inside(*group[other]);
      for (const uint32_t other : {0u, 1u}) group[other]->abort();
      return;
    }
    broke[r] = breaks([&] { f(r); });
  });
  return broke;
}

}  // namespace

TEST_CASE("Collective: sums are right, equal to the bit at every shard, and the same in another group of these ranks") {
  for (const auto& [name, make] : kCollectives)
    for (const uint32_t size : {1u, 2u, 3u, 4u}) {
      CAPTURE(name);
      const Group group = make_group(make, size), again = make_group(make, size);
      for (const size_t count : {1u, 2u, 3u, 7u, 1000u, 4099u, 100'003u}) {
        check_sums<float>(group, again, count, 2e-6);
        check_sums<double>(group, again, count, 1e-14);
      }
      CHECK(group[0]->operations() == 14);
      CHECK(!group[0]->inside());
      CHECK(group[0]->seconds() > 0);
    }
}

/// The other operations, against what they say; in the base class's form (ThreadGroup), too.
TEST_CASE("Collective: broadcast, reduce, all_gather and shift move what they say") {
  const auto check_all = [](uint32_t size, size_t count,
                            const std::function<std::shared_ptr<Collective>(uint32_t)>& member) {
    CAPTURE(size);
    CAPTURE(count);
    in_threads(size, [&](uint32_t r) {
      const auto group = member(r);
      const uint32_t root = size - 1;
      std::vector<float> values = random_values<float>(count, r);
      group->broadcast(std::as_writable_bytes(std::span(values)), root);
      bool right = values == random_values<float>(count, root);

      std::vector<float> counts(count, static_cast<float>(r + 1));
      group->reduce(counts, root);
      right &= r != root || counts == std::vector<float>(count, static_cast<float>(size * (size + 1)) / 2);

      const size_t chunk = count / 10, all = chunk * size - 3;  // the last part is shorter
      std::vector<float> gathered(all), want;
      for (uint32_t part = 0; part < size; ++part)
        for (const float x : random_values<float>(std::min(chunk, all - part * chunk), part)) want.push_back(x);
      for (size_t i = r * chunk; i < std::min(all, (r + 1) * chunk); ++i) gathered[i] = want[i];
      group->all_gather(std::as_writable_bytes(std::span(gathered)), chunk * sizeof(float));
      right &= gathered == want;

      const auto mine = random_values<float>(count / 13, r);
      std::vector<float> left(mine.size());
      group->shift(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(left)));
      right &= left == random_values<float>(mine.size(), (r + size - 1) % size);
      if (!right) throw std::runtime_error("shard " + std::to_string(r) + " got something else");
    });
  };
  for (const uint32_t size : {1u, 2u, 3u, 4u})
    for (const size_t count : {999u, 999'999u}) {
      ThreadGroup threads(size);
      check_all(size, count, [&](uint32_t r) { return threads.member(r); });
      for (const auto& [name, make] : kCollectives) {
        CAPTURE(name);
        const Group group = make_group(make, size);
        check_all(size, count, [&](uint32_t r) { return group[r]; });
      }
    }
}

TEST_CASE("Gloo: sums that were begun end with finish(), each its own, and abort() ends them") {
  const auto begin = [](Collective& collective, std::vector<std::vector<float>>& parts) {
    for (std::vector<float>& part : parts) collective.begin_all_reduce(part);
  };
  const Group group = make_group(make_local_gloo, 3), again = make_group(make_local_gloo, 3);
  std::vector<std::vector<std::vector<float>>> parts(3), want(3);
  for (uint32_t r = 0; r < 3; ++r)
    for (const size_t count : {1u, 300'000u, 70'001u}) parts[r].push_back(random_values<float>(count, r));
  want = parts;
  in_threads(3, [&](uint32_t r) {
    for (std::vector<float>& part : want[r]) group[r]->all_reduce(part);
    for (int round = 0; round < 2; ++round) {
      std::vector<std::vector<float>> mine = parts[r];
      begin(*again[r], mine);
      again[r]->finish();
      if (mine != want[r]) throw std::runtime_error("shard " + std::to_string(r) + " got something else");
    }
  });
  const auto broke = aborted_in(group, [&](uint32_t r) {
    begin(*group[r], parts[r]);
    group[r]->finish();
  });
  CHECK(broke == std::array{true, true});
  CHECK(breaks([&] { sum(*group[0]); }));
}

TEST_CASE("Collective: abort() ends an operation whose peer never comes, and every later one") {
  for (const auto& [name, make] : kCollectives) {
    CAPTURE(name);
    const Group group = make_group(make, 3, no_deadline);
    const auto broke = aborted_in(group, [&](uint32_t r) { sum(*group[r]); });
    for (const uint32_t r : {0u, 1u}) {
      CHECK(broke[r]);
      CHECK(breaks([&] { sum(*group[r]); }));
    }
  }
}

TEST_CASE("Collective: the deadline ends an operation whose peer never comes") {
  for (const auto& [name, make] : kCollectives) {
    CAPTURE(name);
    const Group group = make_group(make, 2, 3s);  // it also has to form in that time
    CHECK(breaks([&] { sum(*group[0]); }));
  }
}

TEST_CASE("Collective: a group that does not form in time, or whose rendezvous ends, is broken") {
  for (const auto& [name, make] : kCollectives) {
    CAPTURE(name);
    LocalRendezvous alone(2), ended(2);
    CHECK(breaks([&, make = make] { make(alone.of(0), 0, 2, 300ms); }));
    std::thread ends([&] { ended.of(1).abort(); });  // before it waits or while it does: the same
    CHECK(breaks([&, make = make] { make(ended.of(1), 1, 2, no_deadline); }));
    ends.join();
  }
}

TEST_CASE("Shared memory: null at every shard when one cannot map it, and Gloo forms over the same rendezvous") {
  LocalRendezvous rendezvous(3);
  std::array<bool, 3> null{}, formed{};
  in_threads(3, [&](uint32_t r) {
    if (r == 1) {  // says what a shard on another host would
      rendezvous.of(1).get("memory", no_deadline);
      rendezvous.of(1).set("mapped/1", {0});
      null[1] = true;
    } else {
      null[r] = make_shared_collective(rendezvous.of(r), r, 3, no_deadline) == nullptr;
    }
    formed[r] = make_local_gloo(rendezvous.of(r), r, 3, no_deadline) != nullptr;
  });
  CHECK(null == std::array{true, true, true});
  CHECK(formed == std::array{true, true, true});
}

TEST_CASE("Shared memory: a place that is none of the group's is not mapped") {
  LocalRendezvous rendezvous(2);
  Rendezvous::Value place(24);  // pid, descriptor, mark
  // Of the right size, and sealed, but with no mark, or another one.
  const SharedMemory other = SharedMemory::create("other", 64 << 20, false);
  const int64_t pid = ::getpid(), fd = other.fd();
  place[16] = 1;
  std::memcpy(place.data(), &pid, sizeof pid);
  std::memcpy(place.data() + 8, &fd, sizeof fd);
  rendezvous.of(0).set("memory", place);
  CHECK(make_shared_collective(rendezvous.of(1), 1, 2, no_deadline) == nullptr);
  CHECK(rendezvous.of(0).get("mapped/1", no_deadline) == Rendezvous::Value{0});
}

namespace {

/// A rendezvous of processes: one file a key, in a directory that all of them watch.
class FileRendezvous {
 public:
  explicit FileRendezvous(std::filesystem::path directory)
      : directory_(std::move(directory)),
        map_([this](const std::string& key, const Rendezvous::Value& value) {
          std::string name = key;
          std::replace(name.begin(), name.end(), '/', '+');
          std::ofstream(directory_ / ("." + name))
              .write(reinterpret_cast<const char*>(value.data()), static_cast<std::streamsize>(value.size()));
          std::filesystem::rename(directory_ / ("." + name), directory_ / name);
        }),
        watcher_([this](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            look();
            std::this_thread::sleep_for(5ms);
          }
        }) {}
  Rendezvous& map() { return map_; }

 private:
  void look() {
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      std::string key = entry.path().filename().string();
      if (key.front() == '.') continue;
      std::replace(key.begin(), key.end(), '+', '/');
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string text{std::istreambuf_iterator<char>(file), {}};
      map_.put(key, {text.begin(), text.end()});
    }
  }
  std::filesystem::path directory_;
  Rendezvous map_;
  std::jthread watcher_;
};

enum class Fate { killed, stopped };

/// One shard's process; exits 0 when it saw what it should: its last peer meets its fate in the middle of an operation.
[[noreturn]] void shard_process(const std::filesystem::path& directory, uint32_t rank, uint32_t size, Fate fate,
                                MakeCollective make) {
  ::signal(SIGPIPE, SIG_IGN);  // as a learner does
  FileRendezvous rendezvous(directory);
  const auto group = make(rendezvous.map(), rank, size, no_deadline);
  std::vector<float> ranks(100'000, static_cast<float>(rank));
  group->all_reduce(ranks);
  if (ranks != std::vector<float>(ranks.size(), static_cast<float>(size * (size - 1)) / 2)) std::_Exit(3);
  if (rank == size - 1) {
    std::raise(fate == Fate::killed ? SIGKILL : SIGSTOP);
    std::_Exit(1);
  }
  // A dead peer's connections close by themselves; else abort() ends the wait.
  std::thread driver([&] {
    if (fate == Fate::stopped || make != make_local_gloo) {
      wait_until_inside(*group);
      group->abort();
    }
  });
  std::_Exit(breaks([&] { sum(*group); }) ? 0 : 2);
}

void check_processes(MakeCollective make) {
  for (const Fate fate : {Fate::killed, Fate::stopped}) {
    CAPTURE(static_cast<int>(fate));
    const TemporaryFolder folder;
    const std::string name = folder.path.string();
    std::vector<pid_t> processes;
    for (uint32_t r = 0; r < 4; ++r) {
      const pid_t child = ::fork();
      if (child == 0) {
        try {
          shard_process(name, r, 4, fate, make);
        } catch (...) { std::_Exit(4); }
      }
      processes.push_back(child);
    }
    for (uint32_t r = 0; r < 3; ++r) {
      int status = 0;
      REQUIRE(::waitpid(processes[r], &status, 0) == processes[r]);
      CHECK(WIFEXITED(status));
      CHECK(WEXITSTATUS(status) == 0);
    }
    ::kill(processes[3], SIGKILL);
    int status = 0;
    ::waitpid(processes[3], &status, 0);
  }
}

}  // namespace

TEST_CASE("Gloo: a peer that is killed breaks the group by itself, one that is stopped when it is aborted") {
  check_processes(make_local_gloo);
}
TEST_CASE("Shared memory: processes sum, and a peer that is killed or stopped ends no other for ever") {
  check_processes(make_shared_collective);
}

TEST_SUITE_END();
