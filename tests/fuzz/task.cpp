// read_task() of a task file, and every expression in it: compiled and run over a few names. Only myriad::Error may
// come out, and it is the user's to mend.
#include "rl/check.hpp"
#include "sims/mujoco/expression.hpp"
#include "sims/mujoco/task_file.hpp"
#include "tests/fuzz/fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  static const std::vector<double> numbers = {1, -2, 0.5, 3e300, -0.0};
  const auto names = [](const std::string& name) -> Value {
    if (name == "dt") return {numbers.data(), 1, true};
    if (name == "time") return {numbers.data() + 1, 1};
    if (name.starts_with("qpos")) return {numbers.data(), numbers.size()};
    if (name.starts_with("act")) return {numbers.data(), 0};
    fail(Exit::usage, "unknown-name", "no value {}", name);
  };
  const auto compile = [&](Program& program, std::string_view text) {
    try {
      const Value value = program.compile(text, "file", names);
      program.begin();
      for (int i = 0; i < 2; ++i) program.run(), program.remember();
      volatile double sum = 0;
      for (size_t i = 0; i < value.size; ++i) sum = sum + value.at[i];
    } catch (const Error& error) {
      fuzz::require(error.code() == "bad-expression", "an expression that is refused is the user's to change");
    }
  };
  const std::string text(reinterpret_cast<const char*>(data), size);
  Program program;
  compile(program, text);  // the fuzzer reaches more of the grammar without TOML around it
  TaskFile task;
  try {
    task = read_task(text, "file");
  } catch (const Error& error) {
    fuzz::require(error.exit_status() == Exit::usage, "a task that is refused is the user's to change");
    return 0;
  }
  fuzz::require(!task.observation.empty() && !task.reward.empty() && task.frame_skip > 0, "a task has what it needs");
  for (const NamedFormula& value : task.values) {
    compile(program, value.formula.text);
    if (!value.start) continue;
    try {
      const Program::Memory memory{value.name, program.compile(value.start->text, "file", names)};
      (void)program.compile(value.formula.text, "file", names, &memory);
      program.begin();
    } catch (const Error& error) {
      fuzz::require(error.code() == "bad-expression", "a value that remembers and is refused is the user's to change");
    }
  }
  for (const PoseEntry& entry : task.pose) (void)fits(entry.joint.text, "FL_hip_joint");
  for (const ObservationTerm& term : task.observation) compile(program, term.value.text);
  for (const RewardTerm& term : task.reward) compile(program, term.value.text), compile(program, term.weight.text);
  for (const JointNoise& noise : task.noise) compile(program, noise.noise.first.text);
  for (const Randomized& one : task.randomize) compile(program, one.distribution.second.text);
  return 0;
}
