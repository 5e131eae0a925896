// TomlValue: the contents of a TOML file, in the file's order and with the place of everything, so that its readers can
// name the place of an error. (Config has readers of its own: rl/config/reader.hpp.)
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace myriad {

struct TomlEntry;

struct TomlValue {
  using Array = std::vector<TomlValue>;
  using Table = std::vector<TomlEntry>;

  std::string place;  ///< "robot.toml:3:9"
  std::variant<bool, double, std::string, Array, Table> value;

  const double* number() const { return std::get_if<double>(&value); }  ///< nullptr where it is something else
  const std::string* text() const { return std::get_if<std::string>(&value); }
  const Array* array() const { return std::get_if<Array>(&value); }
  const Table* table() const { return std::get_if<Table>(&value); }

  /// For "got": `"fast" (string)`.
  std::string describe() const;

  /// Of a table: nullptr where it has no such key.
  const TomlValue* find(std::string_view key) const;

  /// Of a table: throws Error("unknown-key") with the nearest of `known` when it has another; `where`: "[action]".
  void allow_keys(std::string_view where, const std::vector<std::string>& known) const;

  /// Throws Error("wrong-type"): `what` is this value, want `want`.
  [[noreturn]] void wrong_type(std::string_view what, std::string_view want) const;
};

struct TomlEntry {
  std::string key;
  std::string place;  ///< of the key
  TomlValue value;
};

/// Throws Error("bad-toml").
TomlValue read_toml(std::string_view text, std::string_view name);

}  // namespace myriad
