#include "rl/toml.hpp"

#include <doctest/doctest.h>

#include "rl/check.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {}  // namespace

TEST_SUITE("rl/toml") {
  TEST_CASE("TomlValue: a file's order and places are kept") {
    const TomlValue root = read_toml("z = 1\na = \"text\"\n[table]\nlist = [true, 2.5]\n", "file");
    REQUIRE(root.table() != nullptr);
    const TomlValue::Table& entries = *root.table();
    REQUIRE(entries.size() == 3);
    CHECK(entries[0].key == "z");
    CHECK(entries[0].place == "file:1:1");
    CHECK(entries[0].value.place == "file:1:5");
    CHECK(*entries[0].value.number() == 1);
    CHECK(*root.find("a")->text() == "text");
    const TomlValue::Array& list = *root.find("table")->find("list")->array();
    CHECK(std::get<bool>(list[0].value));
    CHECK(list[1].place == "file:4:15");
    CHECK(root.find("b") == nullptr);
    CHECK(list[1].describe() == "2.5");
    CHECK(root.find("a")->describe() == "\"text\" (string)");
  }

  TEST_CASE("TomlValue: what is no TOML, not known or of another type is an error with its place") {
    CHECK(error_of([] { read_toml("a = ", "file"); }).starts_with("error[bad-toml] file:1:"));
    CHECK(error_of([] { read_toml(std::string(70'000, '#'), "file"); }) ==
          "error[bad-toml] file has 70000 bytes; at most 65536");
    std::string deep = "a";
    for (int i = 0; i < 100; ++i) deep += ".a";
    CHECK(error_of([&] { read_toml(deep + " = 1", "file"); }).ends_with(": nested more than 64 deep"));
    std::string deeper = "a";  // below the limit of bytes, and beyond any stack if it were followed
#ifdef __SANITIZE_ADDRESS__    // whose frames are larger: toml++ itself descends once a part of a key
    constexpr int kParts = 3'000;
#else
    constexpr int kParts = 32'000;
#endif
    for (int i = 0; i < kParts; ++i) deeper += ".a";
    CHECK(error_of([&] { read_toml(deeper + " = 1", "file"); }).ends_with(": nested more than 64 deep"));
    CHECK(error_of([] { read_toml("a = 2000-01-01", "file"); }) ==
          "error[wrong-type] file:1:5: dates and times mean nothing here");
    const TomlValue root = read_toml("one = 1\ntow = 2", "file");
    CHECK(error_of([&] {
            root.allow_keys("[group]", {"one", "two"});
          }) == "error[unknown-key] file:2:1: [group] has no tow; did you mean two?");
    CHECK(error_of([&] { root.find("one")->wrong_type("one", "a string"); }) ==
          "error[wrong-type] file:1:7: one is 1, want a string");
  }
}

}  // namespace myriad
