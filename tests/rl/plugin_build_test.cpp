#include "rl/plugin_build.hpp"

#include <doctest/doctest.h>

#include "tests/error_of.hpp"

namespace myriad {
namespace {

TEST_SUITE("rl/plugin_build") {
  TEST_CASE("check_build: other headers, another library or another torch are refused, another compiler is not") {
    const PluginBuild want{"0123", "1.2.3", "g++ 12", "libstdc++ (C++11 ABI)", "2.9.0"};
    const auto refused = [&](const PluginBuild& got) { return error_of([&] { check_build("/a/x.so", got, want); }); };
    CHECK(refused(want).empty());
    PluginBuild got = want;
    got.compiler = "Clang 19", got.version = "1.2.4";
    CHECK(refused(got).empty());
    got = want, got.headers = "4567";
    CHECK(refused(got) ==
          "error[plugin-abi] /a/x.so was built with Myriad 1.2.3 (headers 4567), g++ 12, libstdc++ (C++11 ABI), torch "
          "2.9.0; this program with Myriad 1.2.3 (headers 0123), g++ 12, libstdc++ (C++11 ABI), torch 2.9.0: install "
          "this program's SDK (myriad install-sdk) and build it again");
    got = want, got.library = "libstdc++ (old ABI)";
    CHECK(refused(got).find("libstdc++ (old ABI), torch 2.9.0; this") != std::string::npos);
    got = want, got.torch = "";
    CHECK(refused(got).find("libstdc++ (C++11 ABI); this") != std::string::npos);
  }

  TEST_CASE("plugin_table: no such file, and a file that is no library") {
    CHECK(error_of([] { (void)plugin_table("/nowhere/x.so", "entry", "docs"); }) ==
          "error[no-plugin] there is no file /nowhere/x.so");
    const std::string line = error_of([] { (void)plugin_table("/proc/self/status", "entry", "docs/x.md"); });
    CHECK_MESSAGE(line.starts_with("error[no-plugin] /proc/self/status cannot be loaded: "), line);
    CHECK(line.ends_with("; see docs/x.md"));
  }
}

}  // namespace
}  // namespace myriad
