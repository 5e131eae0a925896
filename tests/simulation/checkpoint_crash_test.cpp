// Checkpoints and crashes at model level: every prefix of what saving and pruning do to a disk, and every way to lose
// what was not synced, must leave the old checkpoint or the new one; every failing call leaves the last one standing.
#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>

#include "rl/check.hpp"
#include "rl/hash.hpp"
#include "roles/checkpoint.hpp"
#include "tests/simulation/sim_files.hpp"

namespace myriad::simulation {
namespace {

constexpr const char* kRoot = "checkpoints";

std::vector<std::byte> content(uint64_t iteration, size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((iteration * 131 + i * 7 + i / 251) & 0xff);
  return bytes;
}

/// One save as the driver and the learner do it. What the writer said; the learner's own failure is an Abandon.
CheckpointWriter::Output save(SimFiles& files, CheckpointWriter& writer, uint64_t iteration) {
  const auto prepared = writer.step(CheckpointWriter::Prepare{iteration}, Time{});
  if (!std::holds_alternative<CheckpointWriter::Prepared>(prepared)) return prepared;
  const std::string directory = std::get<CheckpointWriter::Prepared>(prepared).directory;
  CheckpointWriter::Commit commit;
  try {
    commit.files.push_back(write_checkpoint_file(files, directory, "learner_group/modules/default_policy.safetensors",
                                                 content(iteration, 9000)));
    commit.files.push_back(
        write_checkpoint_file(files, directory, "learner_group/state.safetensors", content(iteration, 40)));
    commit.files.push_back(
        write_checkpoint_file(files, directory, "env_runners/slot-0000.safetensors", content(iteration + 1, 600)));
  } catch (const FileError&) { return writer.step(CheckpointWriter::Abandon{}, Time{}); }
  commit.extra["driver.json"] = fmt::format("{{\"training_iteration\": {}}}", iteration);
  return writer.step(commit, Time{});
}

/// The iteration a checkpoint holds, after every byte of it was compared.
uint64_t iteration_of(SimFiles& files, const std::string& directory) {
  const uint64_t iteration = std::stoull(directory.substr(directory.rfind('/') + 1));
  CHECK(files.read(directory + "/learner_group/modules/default_policy.safetensors") == content(iteration, 9000));
  CHECK(files.read(directory + "/learner_group/state.safetensors") == content(iteration, 40));
  CHECK(files.read(directory + "/env_runners/slot-0000.safetensors") == content(iteration + 1, 600));
  const auto text = files.read(directory + "/driver.json");
  CHECK(std::string(reinterpret_cast<const char*>(text.data()), text.size()) ==
        fmt::format("{{\"training_iteration\": {}}}", iteration));
  return iteration;
}

struct Recorded {
  SimFiles files;
  std::vector<size_t> committed_at;  ///< operations there were when checkpoint i + 1 was committed
};

Recorded record_saves(uint64_t count, uint32_t keep, bool ignores_file_fsync = false,
                      bool ignores_directory_fsync = false) {
  Recorded recorded;
  recorded.files.make_directory(kRoot);
  recorded.files.fsync("");
  recorded.files.keep_journal = true;
  recorded.files.ignores_file_fsync = ignores_file_fsync;
  recorded.files.ignores_directory_fsync = ignores_directory_fsync;
  CheckpointWriter writer(recorded.files, kRoot, keep);
  for (uint64_t i = 1; i <= count; ++i) {
    REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(save(recorded.files, writer, i)));
    recorded.committed_at.push_back(recorded.files.journal().size());
  }
  return recorded;
}

/// Crash states of a journal: visit(tree, number of operations issued, whether the fsyncs at this point came through).
template <class Visit>
void each_crash_state(const SimFiles& files, Visit visit) {
  using Operation = SimFiles::Operation;
  const auto& journal = files.journal();
  for (size_t issued = 0; issued <= journal.size(); ++issued) {
    // Just before and just after the fsyncs that came at this point.
    for (const bool synced : {false, true}) {
      std::vector<size_t> pending;
      for (size_t i = 0; i < issued; ++i)
        if (journal[i].durable_at == SIZE_MAX ||
            (synced ? journal[i].durable_at > issued : journal[i].durable_at >= issued))
          pending.push_back(i);
      const auto state = [&](const std::function<std::optional<Operation>(size_t)>& lost) {
        SimFiles::Tree tree = files.base();
        for (size_t i = 0; i < issued; ++i) {
          if (!std::binary_search(pending.begin(), pending.end(), i))
            SimFiles::apply(tree, journal[i]);
          else if (const auto operation = lost(i))
            SimFiles::apply(tree, *operation);
        }
        visit(tree, issued, synced);
      };
      state([&](size_t i) { return std::optional(journal[i]); });  // all kept
      if (pending.empty()) continue;
      state([](size_t) { return std::nullopt; });  // all dropped
      for (const size_t dropped : pending)         // each dropped alone, each kept alone
        for (const bool alone : {true, false})
          state([&](size_t i) { return (i == dropped) == alone ? std::nullopt : std::optional(journal[i]); });
      for (const size_t torn_at : {size_t{512}, size_t{4096}})  // the last write torn
        state([&](size_t i) {
          Operation operation = journal[i];
          if (i == pending.back() && operation.bytes != nullptr && operation.bytes->size() > torn_at)
            operation.bytes = std::make_shared<const std::vector<std::byte>>(
                operation.bytes->begin(), operation.bytes->begin() + static_cast<ptrdiff_t>(torn_at));
          return std::optional(operation);
        });
      state([&](size_t i) {  // names before bytes
        return journal[i].kind == Operation::Kind::bytes ? std::nullopt : std::optional(journal[i]);
      });
    }
  }
}

/// The number of crash states in which what was committed cannot be found.
size_t lost_states(const Recorded& recorded, size_t& states) {
  size_t lost = 0;
  each_crash_state(recorded.files, [&](const SimFiles::Tree& tree, size_t issued, bool synced) {
    ++states;
    const auto committed =
        static_cast<uint64_t>(std::count_if(recorded.committed_at.begin(), recorded.committed_at.end(),
                                            [&](size_t at) { return synced ? at <= issued : at < issued; }));
    SimFiles files(tree);
    const auto valid = valid_checkpoints(files, kRoot);
    const uint64_t found = valid.empty() ? 0 : iteration_of(files, valid.back());
    // Old or new: the last one committed, or the next if it got so far.
    if (found < committed || found > committed + 1) ++lost;
  });
  return lost;
}

}  // namespace

TEST_SUITE("simulation/checkpoint_crash") {
  TEST_CASE("CheckpointWriter: a crash at any moment leaves the old checkpoint or the new one") {
    size_t states = 0;
    for (const uint32_t keep : {1u, 2u, 3u}) CHECK(lost_states(record_saves(5, keep), states) == 0);
    MESSAGE(states << " crash states");
    CHECK(states >= 2000);
  }

  TEST_CASE("CheckpointWriter: without fsync of files or of directories crash states lose checkpoints") {
    size_t states = 0;
    CHECK(lost_states(record_saves(3, 1, true, false), states) > 0);
    CHECK(lost_states(record_saves(3, 1, false, true), states) > 0);
  }

  TEST_CASE("CheckpointWriter: exactly the newest num_to_keep stay, a number saved again counts once") {
    for (const uint32_t keep : {1u, 2u, 3u}) {
      CAPTURE(keep);
      SimFiles files;
      files.make_directory(kRoot);
      CheckpointWriter writer(files, kRoot, keep);
      for (uint64_t iteration = 1; iteration <= 5; ++iteration) {
        REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(save(files, writer, 2 * iteration)));
        std::vector<std::string> want;
        for (uint64_t i = iteration < keep ? 1 : iteration - keep + 1; i <= iteration; ++i)
          want.push_back(fmt::format("{:09}", 2 * i));
        CHECK(files.list(kRoot) == want);
      }
      const auto before = files.list(kRoot);
      REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(save(files, writer, 10)));
      CHECK(files.list(kRoot) == before);
    }
  }

  TEST_CASE("CheckpointWriter: those to keep stay beside the newest num_to_keep, until they are to no longer") {
    SimFiles files;
    files.make_directory(kRoot);
    CheckpointWriter writer(files, kRoot, 2);
    const auto save_keeping = [&](uint64_t iteration, std::set<uint64_t> keep) {
      const auto prepared = writer.step(CheckpointWriter::Prepare{iteration}, Time{});
      const std::string directory = std::get<CheckpointWriter::Prepared>(prepared).directory;
      CheckpointWriter::Commit commit;
      commit.files.push_back(write_checkpoint_file(files, directory, "state", content(iteration, 40)));
      commit.keep = std::move(keep);
      REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(writer.step(commit, Time{})));
      return files.list(kRoot);
    };
    using Names = std::vector<std::string>;
    for (const uint64_t iteration : {1, 2, 3}) save_keeping(iteration, {1, 2});
    CHECK(files.list(kRoot) == Names{"000000001", "000000002", "000000003"});
    CHECK(save_keeping(4, {2, 9}) == Names{"000000002", "000000003", "000000004"});
    CHECK(save_keeping(5, {4}) == Names{"000000004", "000000005"});
  }

  TEST_CASE("CheckpointWriter: after a crash the next save cleans up and holds") {
    const Recorded recorded = record_saves(2, 2);
    size_t states = 0;
    each_crash_state(recorded.files, [&](const SimFiles::Tree& tree, size_t, bool) {
      if (++states % 7 != 0) return;
      SimFiles files(tree);
      CheckpointWriter writer(files, kRoot, 2);
      REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(save(files, writer, 9)));
      const auto valid = valid_checkpoints(files, kRoot);
      REQUIRE(!valid.empty());
      CHECK(iteration_of(files, valid.back()) == 9);
      for (const std::string& name : files.list(kRoot)) CHECK(!name.starts_with('.'));
    });
  }

  TEST_CASE("CheckpointWriter: whichever call fails, the save says so, the last one stands, the next succeeds") {
    uint64_t calls = 0;
    {
      SimFiles files;
      files.make_directory(kRoot);
      CheckpointWriter writer(files, kRoot, 1);
      (void)save(files, writer, 1);
      const uint64_t before = files.calls;
      (void)save(files, writer, 2);
      calls = files.calls - before;
    }
    REQUIRE(calls > 20);
    size_t failed = 0;
    for (const int error : {ENOSPC, EIO})
      for (uint64_t n = 1; n <= calls; ++n) {
        CAPTURE(n);
        SimFiles files;
        files.make_directory(kRoot);
        CheckpointWriter writer(files, kRoot, 1);
        REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(save(files, writer, 1)));
        const uint64_t fails_at = files.calls + n;
        files.fault = [&](const char*, const std::string&) { return files.calls == fails_at ? error : 0; };
        const auto result = save(files, writer, 2);
        const bool said_so = std::holds_alternative<CheckpointWriter::Failed>(result);
        failed += said_so ? 1 : 0;
        const auto valid = valid_checkpoints(files, kRoot);
        REQUIRE(!valid.empty());
        CHECK(iteration_of(files, valid.back()) >= (said_so ? 1u : 2u));
        files.fault = nullptr;
        REQUIRE(std::holds_alternative<CheckpointWriter::Committed>(save(files, writer, 3)));
        const auto after = valid_checkpoints(files, kRoot);
        REQUIRE(after.size() == 1);
        CHECK(iteration_of(files, after[0]) == 3);
      }
    CHECK(failed >= 2 * calls - 4);  // pruning an old one may fail without harm
  }

  TEST_CASE("checkpoint_violation: every flipped byte of a manifest and every shorter one is refused") {
    SimFiles files;
    files.make_directory(kRoot);
    CheckpointWriter writer(files, kRoot, 1);
    const auto committed = std::get<CheckpointWriter::Committed>(save(files, writer, 123456789));
    const std::string path = committed.directory + "/MANIFEST.json";
    const auto good = files.read(path);
    REQUIRE(checkpoint_violation(files, committed.directory) == "");
    for (size_t i = 0; i < good.size(); ++i)
      for (int b = 0; b < 8; ++b) {
        auto bytes = good;
        bytes[i] ^= static_cast<std::byte>(1 << b);
        files.write(path, bytes);
        CAPTURE(i);
        CHECK(checkpoint_violation(files, committed.directory) != "");
      }
    for (size_t size = 0; size < good.size(); ++size) {
      files.write(path, std::span(good).first(size));
      CAPTURE(size);
      CHECK(checkpoint_violation(files, committed.directory) != "");
    }
    auto longer = good;
    longer.push_back(std::byte{' '});
    files.write(path, longer);
    CHECK(checkpoint_violation(files, committed.directory) != "");
    files.write(path, good);
    CHECK(checkpoint_violation(files, committed.directory) == "");
  }

  TEST_CASE("checkpoint_violation: a manifest that names files elsewhere is refused, whole as it is") {
    SimFiles files;
    files.make_directory(kRoot);
    CheckpointWriter writer(files, kRoot, 2);
    const auto other = std::get<CheckpointWriter::Committed>(save(files, writer, 1));
    const auto bytes = files.read(other.directory + "/driver.json");
    for (const std::string name : {"../000000001/driver.json", "/000000001/driver.json"}) {
      CAPTURE(name);
      (void)writer.step(CheckpointWriter::Prepare{2}, Time{});
      CheckpointWriter::Commit commit;
      commit.files.push_back({name, bytes.size(), crc32c(bytes)});
      const auto result = writer.step(commit, Time{});
      REQUIRE(std::holds_alternative<CheckpointWriter::Failed>(result));
      CHECK(std::get<CheckpointWriter::Failed>(result).reason.find("MANIFEST.json: file name " + name) !=
            std::string::npos);
    }
  }

  TEST_CASE("checkpoint_violation: every flipped byte of a file is refused by name") {
    SimFiles files;
    files.make_directory(kRoot);
    CheckpointWriter writer(files, kRoot, 1);
    const auto committed = std::get<CheckpointWriter::Committed>(save(files, writer, 5));
    const std::string path = committed.directory + "/env_runners/slot-0000.safetensors";
    const auto good = files.read(path);
    for (size_t i = 0; i < good.size(); ++i) {
      auto bytes = good;
      bytes[i] ^= std::byte{0x10};
      files.write(path, bytes);
      CHECK(checkpoint_violation(files, committed.directory)
                .starts_with("env_runners/slot-0000.safetensors has checksum"));
    }
    files.remove(path);
    CHECK(checkpoint_violation(files, committed.directory).starts_with("env_runners/slot-0000.safetensors: "));
  }
}

}  // namespace myriad::simulation
