// Program: expressions over named numbers and vectors, compiled once and evaluated without allocation.
//
//   (qpos:rootx - before(qpos:rootx)) / dt        0.7 < qpos[1] < 2 and all(abs(qvel) < 100)
//   norm(site_xpos:tip - [0.3, 0, goal_z])        clip(qvel, -10, 10)
//
// Own code: of Debian's libraries muParser knows no vectors and muParserX allocates in each evaluation. The program is
// a flat list of instructions over addresses that stay; what is constant is computed when it is compiled. Vectors meet
// vectors of their size, or numbers. Comparisons give 1 or 0 and may be chained; `before(e)` is e before the step.
#pragma once

#include <functional>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace myriad {

/// `size` doubles where they are found at any time: 1 is a number, more (or none) a vector.
struct Value {
  const double* at;
  size_t size;
  bool constant = false;  ///< it will not change
};

class Program {
 public:
  /// What a name stands for. Throws Error for an unknown one.
  using Names = std::function<Value(const std::string& name)>;

  /// Of a value `name` that goes on from its last one: air = where(contact, 0, before(air) + dt).
  struct Memory {
    std::string name;
    Value start;
  };

  /// Adds `text`; its value is up to date after each run(). With `memory` it may ask for its own last value, and is
  /// `memory->start` at first: its size, too. Throws Error("bad-expression"): "`where`: ... at column N".
  /// Any text is safe.
  Value compile(std::string_view text, const std::string& where, const Names& names, const Memory* memory = nullptr);

  void run() const;

  /// At S_0, which has nothing before it: every before(e) is e, and a value with memory its start.
  void begin() const;
  /// Before a step: what before(...) will give, the values of the last run().
  void remember() const;
  const std::vector<std::span<double>>& remembered() const { return remembered_; }

  Value constant(double value);
  /// Numbers that change in other ways than by run().
  std::span<double> variable(size_t size) { return allocate(size, "numbers of the task"); }
  static std::vector<std::string> function_names();

 private:
  class Compiler;
  struct Function;
  struct Instruction {
    void (*execute)(const Instruction&);
    size_t n;                  // elements of the operands
    double* out;               // n elements, or one for sum, norm, ...
    const double* operand[3];  // unused: the first again
    size_t stride[3];          // 0: a number for every element
  };

  template <auto f>
  static void each(const Instruction& i);
  template <auto start, auto f>
  static void fold(const Instruction& i);
  static const std::vector<Function>& functions();
  std::span<double> allocate(size_t size, const std::string& where);
  std::span<double> remember_later(const Value& value, const std::string& where);

  std::pmr::monotonic_buffer_resource memory_;  // addresses stay
  size_t allocated_ = 0;                        // doubles
  std::vector<Instruction> instructions_;
  std::vector<Value> forgotten_;               // what remember() copies ...
  std::vector<std::span<double>> remembered_;  // ... here
  double* at_start_ = nullptr;                 // 1 at S_0, then 0; one of remembered_; nullptr: nothing asks
};

}  // namespace myriad
