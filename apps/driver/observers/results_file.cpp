#include "apps/driver/observers/results_file.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFile = "results.jsonl";
constexpr const char* kEvaluationsFile = "evaluations.jsonl";
constexpr const char* kIteration = "training_iteration";

std::string spell(const ReportValue& entry) {
  if (const double* number = std::get_if<double>(&entry.value))
    return std::isfinite(*number) ? fmt::format("{}", *number) : "null";  // JSON has no NaN and no infinity
  return json_string(std::get<std::string>(entry.value));
}

/// A group of a nested report: names in the order they came, each a value or a group of its own.
struct Group {
  struct Member {
    std::string name;
    std::string value;  ///< JSON; empty for a group
    std::vector<Group> group;
  };
  std::vector<Member> members;

  void insert(std::string_view key, std::string value) {
    const size_t slash = key.find('/');
    const std::string_view name = key.substr(0, slash);
    auto member = std::ranges::find(members, name, [](const Member& m) { return std::string_view(m.name); });
    if (slash == std::string_view::npos) {
      check(member == members.end(), "a report has {} twice, or as a value and a group", key);
      members.push_back({std::string(name), std::move(value), {}});
      return;
    }
    if (member == members.end()) member = members.insert(member, {std::string(name), "", {Group{}}});
    check(!member->group.empty(), "a report has {} as a value and a group", name);
    member->group[0].insert(key.substr(slash + 1), std::move(value));
  }

  std::string to_json() const {
    std::string text = "{";
    for (const Member& m : members)
      text += fmt::format("{}{}: {}", text.size() > 1 ? ", " : "", json_string(m.name),
                          m.group.empty() ? m.value : m.group[0].to_json());
    return text + "}";
  }
};

std::optional<double> iteration_of(std::string_view line) {
  boost::json::error_code error;
  const boost::json::value json = boost::json::parse(boost::json::string_view(line.data(), line.size()), error);
  if (error || !json.is_object()) return std::nullopt;
  const boost::json::value* value = json.get_object().if_contains(kIteration);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->to_number<double>();
}

}  // namespace

std::string to_json_line(const Report& report) {
  Group root;
  for (const ReportValue& entry : report) root.insert(entry.key, spell(entry));
  return root.to_json();
}

ResultsFile::ResultsFile(const fs::path& run) : file_(open_lines(run / kFile)) {}

void ResultsFile::report(const RunReport& report) {
  check(number_in(report.rows, kIteration).has_value(), "a report has no {}", kIteration);
  file_.append(to_json_line(report.rows) + '\n');
  wall_time_s_ = report.wall_time_s;
}

std::optional<RunEvent> ResultsFile::notice() {
  if (file_.behind() == was_behind_) return std::nullopt;
  was_behind_ = file_.behind();
  return RunEvent{wall_time_s_, "disk",
                  was_behind_ ? "results.jsonl cannot be written; its lines wait for room, training goes on"
                              : "results.jsonl is written again; no line was lost"};
}

EvaluationsFile::EvaluationsFile(const fs::path& run) : file_(open_lines(run / kEvaluationsFile)) {}

void EvaluationsFile::evaluated(const RunReport& report) { file_.append(to_json_line(report.rows) + '\n'); }

LinesUpTo evaluations_up_to(const fs::path& run, int64_t iteration) {
  return lines_up_to(run / kEvaluationsFile, iteration, 0, iteration_of);
}

LinesUpTo results_up_to(const fs::path& run, int64_t iteration) {
  return lines_up_to(run / kFile, iteration, 0, iteration_of);
}

}  // namespace myriad
