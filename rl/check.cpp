#include "rl/check.hpp"

#include <algorithm>
#include <cctype>
#include <numeric>
#include <vector>

namespace myriad {
namespace {

/// Levenshtein distance (Levenshtein 1966), one row at a time.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substituted = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, substituted});
    }
  }
  return row.back();
}

/// "cartpole" of "CartPole-v1", where it is long enough to mean something.
bool is_beginning(std::string_view name, std::string_view candidate) {
  constexpr size_t kShortest = 4;
  return name.size() >= kShortest && name.size() < candidate.size() &&
         std::ranges::equal(name, candidate.substr(0, name.size()),
                            [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
}

}  // namespace

std::string nearest_name(std::string_view name, std::span<const std::string> known) {
  size_t best = std::max<size_t>(2, name.size() / 3) + 1;
  std::string nearest;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  if (!nearest.empty()) return nearest;
  for (const std::string& candidate : known)  // the shortest that begins so
    if (is_beginning(name, candidate) && (nearest.empty() || candidate.size() < nearest.size())) nearest = candidate;
  return nearest;
}

std::string suggestion(std::string_view name, std::span<const std::string> known) {
  const std::string nearest = nearest_name(name, known);
  if (!nearest.empty()) return fmt::format("; did you mean {}?", nearest);
  if (known.empty()) return "";
  return fmt::format("; known: {}", fmt::join(known, ", "));
}

}  // namespace myriad
