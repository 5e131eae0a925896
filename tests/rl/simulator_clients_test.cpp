#include "rl/simulator/clients.hpp"

#include <doctest/doctest.h>

#include <fstream>

#include "rl/check.hpp"
#include "tests/temporary_folder.hpp"

using namespace myriad;

namespace {

/// What FILE of "clients:FILE" is read as, with `more` below what each needs.
simulator::ClientsFile read(const std::string& more) {
  const TemporaryFolder folder;
  const std::string path = folder.path / "game.toml";
  std::ofstream(path) << "observation = {shape = [2]}\naction = {n = 2}\nport = 0\n" << more;
  return simulator::read_clients_file(path);
}

std::string refused(const std::string& more) {
  try {
    (void)read(more);
  } catch (const Error& error) { return error.code() + ": " + error.what(); }
  return "";
}

}  // namespace

TEST_SUITE("rl/simulator_clients") {
  TEST_CASE("a clients' file: how long a lost or silent client is waited for, and what is no such time") {
    CHECK(read("").reconnect_s == 10);
    CHECK(read("").silence_s == 300);
    CHECK(read("silence_s = 0\n").silence_s == 0);
    CHECK(read("silence_s = 2.5\nreconnect_s = 0.2\n").silence_s == 2.5);
    CHECK(read("silence_s = 2.5\nreconnect_s = 0.2\n").reconnect_s == 0.2);
    for (const std::string key : {"silence_s", "reconnect_s"})
      for (const std::string value : {"-1", "nan", "inf", "1e10", "'long'"}) {
        CAPTURE(value);
        const std::string said = refused(key + " = " + value + "\n");
        CHECK(said.starts_with("wrong-type: "));
        CHECK(said.find("game.toml:4:") != std::string::npos);
        CHECK(said.find(key) != std::string::npos);
      }
  }
}
