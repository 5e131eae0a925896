#include "learners/collective.hpp"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "rl/random.hpp"
#include "tests/learners/gloo_group.hpp"

using namespace myriad;
using namespace std::chrono_literals;

TEST_SUITE_BEGIN("learners/collective");

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

}  // namespace

TEST_CASE("Gloo: sums are right, equal to the bit at every shard, and the same in another group of the same ranks") {
  for (const uint32_t size : {1u, 2u, 3u, 4u}) {
    const Group group = make_gloo_group(size), again = make_gloo_group(size);
    for (const size_t count : {1u, 2u, 3u, 7u, 1000u, 4099u, 100'003u}) {
      check_sums<float>(group, again, count, 2e-6);
      check_sums<double>(group, again, count, 1e-14);
    }
    CHECK(group[0]->operations() == 14);
    CHECK(!group[0]->inside());
  }
}

/// The other operations, against what they say; in the base class's form (ThreadGroup) and in the backend's.
TEST_CASE("Collective: broadcast, reduce, all_gather and shift move what they say") {
  for (const bool gloo : {false, true})
    for (const uint32_t size : {1u, 2u, 3u, 4u}) {
      CAPTURE(gloo);
      CAPTURE(size);
      ThreadGroup threads(size);
      const Group connected = gloo ? make_gloo_group(size) : Group{};
      in_threads(size, [&](uint32_t r) {
        const auto group = gloo ? connected[r] : threads.member(r);
        const uint32_t root = size - 1;
        std::vector<float> values = random_values<float>(999, r);
        group->broadcast(std::as_writable_bytes(std::span(values)), root);
        bool right = values == random_values<float>(999, root);

        std::vector<float> counts(999, static_cast<float>(r + 1));
        group->reduce(counts, root);
        right &= r != root || counts == std::vector<float>(999, static_cast<float>(size * (size + 1)) / 2);

        const size_t chunk = 10, all = chunk * size - 3;  // the last part is shorter
        std::vector<float> gathered(all), want;
        for (uint32_t part = 0; part < size; ++part)
          for (const float x : random_values<float>(std::min(chunk, all - part * chunk), part)) want.push_back(x);
        for (size_t i = r * chunk; i < std::min(all, (r + 1) * chunk); ++i) gathered[i] = want[i];
        group->all_gather(std::as_writable_bytes(std::span(gathered)), chunk * sizeof(float));
        right &= gathered == want;

        const auto mine = random_values<float>(77, r);
        std::vector<float> left(77);
        group->shift(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(left)));
        right &= left == random_values<float>(77, (r + size - 1) % size);
        if (!right) throw std::runtime_error("shard " + std::to_string(r) + " got something else");
      });
    }
}

TEST_CASE("Gloo: abort() ends an operation whose peer never comes, and every later one") {
  const Group group = make_gloo_group(3, no_deadline);
  std::array<bool, 3> broke{};
  in_threads(3, [&](uint32_t r) {
    if (r == 2) {  // never comes
      for (const uint32_t other : {0u, 1u}) wait_until_inside(*group[other]);
      for (const uint32_t other : {0u, 1u}) group[other]->abort();
      return;
    }
    broke[r] = breaks([&] { sum(*group[r]); });
  });
  for (const uint32_t r : {0u, 1u}) {
    CHECK(broke[r]);
    CHECK(breaks([&] { sum(*group[r]); }));
  }
}

TEST_CASE("Gloo: the deadline ends an operation whose peer never comes") {
  const Group group = make_gloo_group(2, 500ms);
  CHECK(breaks([&] { sum(*group[0]); }));
}

TEST_CASE("Gloo: a group that does not form in time, or whose rendezvous ends, is broken") {
  LocalRendezvous alone(2), ended(2);
  CHECK(breaks([&] { make_gloo_collective(alone.of(0), 0, 2, "127.0.0.1", 300ms); }));
  std::thread ends([&] { ended.of(1).abort(); });  // before it waits or while it does: the same
  CHECK(breaks([&] { make_gloo_collective(ended.of(1), 1, 2, "127.0.0.1", no_deadline); }));
  ends.join();
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
[[noreturn]] void shard_process(const std::filesystem::path& directory, uint32_t rank, uint32_t size, Fate fate) {
  FileRendezvous rendezvous(directory);
  const auto group = make_gloo_collective(rendezvous.map(), rank, size, "127.0.0.1", no_deadline);
  sum(*group);
  if (rank == size - 1) {
    std::raise(fate == Fate::killed ? SIGKILL : SIGSTOP);
    std::_Exit(1);
  }
  // A dead peer's connections close by themselves; a stopped one's stay, and abort() ends the wait.
  std::thread driver([&] {
    if (fate == Fate::stopped) {
      wait_until_inside(*group);
      group->abort();
    }
  });
  std::_Exit(breaks([&] { sum(*group); }) ? 0 : 2);
}

}  // namespace

TEST_CASE("Gloo: a peer that is killed breaks the group by itself, one that is stopped when it is aborted") {
  for (const Fate fate : {Fate::killed, Fate::stopped}) {
    CAPTURE(static_cast<int>(fate));
    std::string name = (std::filesystem::temp_directory_path() / "myriad-rendezvous-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    std::vector<pid_t> processes;
    for (uint32_t r = 0; r < 4; ++r) {
      const pid_t child = ::fork();
      if (child == 0) {
        try {
          shard_process(name, r, 4, fate);
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
    std::filesystem::remove_all(name);
  }
}

TEST_SUITE_END();
