#include "sims/mujoco/expression.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <numbers>
#include <optional>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Where folds begin.
constexpr auto kZero = [] { return 0.0; };
constexpr auto kOne = [] { return 1.0; };
constexpr auto kInfinity = [] { return kInf; };
constexpr auto kMinusInfinity = [] { return -kInf; };

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

}  // namespace

/// Reads elements of its operands and writes elements of the result.
struct Program::Function {
  const char* name;  // an operator's is its sign
  size_t arguments;
  bool reduces;  // to one number
  void (*execute)(const Instruction&);
};

template <auto f>
void Program::each(const Instruction& i) {
  for (size_t k = 0; k < i.n; ++k)
    i.out[k] = f(i.operand[0][k * i.stride[0]], i.operand[1][k * i.stride[1]], i.operand[2][k * i.stride[2]]);
}

template <auto start, auto f>
void Program::fold(const Instruction& i) {
  double result = start();
  for (size_t k = 0; k < i.n; ++k) result = f(result, i.operand[0][k * i.stride[0]]);
  *i.out = result;
}

const std::vector<Program::Function>& Program::functions() {
  using D = double;
  static const std::vector<Function> all = {
      {"abs", 1, false, each<[](D a, D, D) { return std::abs(a); }>},
      {"exp", 1, false, each<[](D a, D, D) { return std::exp(a); }>},
      {"log", 1, false, each<[](D a, D, D) { return std::log(a); }>},
      {"sqrt", 1, false, each<[](D a, D, D) { return std::sqrt(a); }>},
      {"square", 1, false, each<[](D a, D, D) { return a * a; }>},
      {"tanh", 1, false, each<[](D a, D, D) { return std::tanh(a); }>},
      {"sin", 1, false, each<[](D a, D, D) { return std::sin(a); }>},
      {"cos", 1, false, each<[](D a, D, D) { return std::cos(a); }>},
      {"atan2", 2, false, each<[](D a, D b, D) { return std::atan2(a, b); }>},
      {"isfinite", 1, false, each<[](D a, D, D) { return D(std::isfinite(a)); }>},
      {"clip", 3, false, each<[](D a, D low, D high) { return std::min(std::max(a, low), high); }>},
      {"where", 3, false, each<[](D a, D b, D c) { return a != 0 ? b : c; }>},
      {"min", 2, false, each<[](D a, D b, D) { return std::min(a, b); }>},
      {"max", 2, false, each<[](D a, D b, D) { return std::max(a, b); }>},
      {"min", 1, true, fold<kInfinity, [](D least, D a) { return std::min(least, a); }>},
      {"max", 1, true, fold<kMinusInfinity, [](D most, D a) { return std::max(most, a); }>},
      {"sum", 1, true, fold<kZero, [](D sum, D a) { return sum + a; }>},
      {"norm", 1, true,
       [](const Instruction& i) {
         fold<kZero, [](D sum, D a) { return sum + a * a; }>(i);
         *i.out = std::sqrt(*i.out);
       }},
      {"all", 1, true, fold<kOne, [](D all, D a) { return D(all != 0 && a != 0); }>},
      {"any", 1, true, fold<kZero, [](D any, D a) { return D(any != 0 || a != 0); }>},
      {"=", 1, false, each<[](D a, D, D) { return a; }>},
      {"-", 1, false, each<[](D a, D, D) { return -a; }>},
      {"not", 1, false, each<[](D a, D, D) { return D(a == 0); }>},
      {"+", 2, false, each<[](D a, D b, D) { return a + b; }>},
      {"-", 2, false, each<[](D a, D b, D) { return a - b; }>},
      {"*", 2, false, each<[](D a, D b, D) { return a * b; }>},
      {"/", 2, false, each<[](D a, D b, D) { return a / b; }>},
      {"^", 2, false, each<[](D a, D b, D) { return std::pow(a, b); }>},
      {"<=", 2, false, each<[](D a, D b, D) { return D(a <= b); }>},
      {">=", 2, false, each<[](D a, D b, D) { return D(a >= b); }>},
      {"<", 2, false, each<[](D a, D b, D) { return D(a < b); }>},
      {">", 2, false, each<[](D a, D b, D) { return D(a > b); }>},
      {"==", 2, false, each<[](D a, D b, D) { return D(a == b); }>},
      {"!=", 2, false, each<[](D a, D b, D) { return D(a != b); }>},
      {"and", 2, false, each<[](D a, D b, D) { return D(a != 0 && b != 0); }>},
      {"or", 2, false, each<[](D a, D b, D) { return D(a != 0 || b != 0); }>},
  };
  return all;
}

std::vector<std::string> Program::function_names() {
  std::vector<std::string> names{"before"};
  for (const Function& function : functions())
    if (is_letter(function.name[0])) names.emplace_back(function.name);
  return names;
}

void Program::run() const {
  for (const Instruction& instruction : instructions_) instruction.execute(instruction);
}

void Program::begin() const {
  // From S_0 as many steps as there are memories, without a step: an inner before() comes first.
  for (size_t i = 0; i < remembered_.size(); ++i) {
    if (at_start_ != nullptr) *at_start_ = 1;
    run();
    remember();
  }
  if (at_start_ != nullptr) *at_start_ = 1;
}

void Program::remember() const {
  // From the last: a before() of a before() takes what the inner one gave.
  for (size_t i = remembered_.size(); i-- > 0;)
    std::copy_n(forgotten_[i].at, forgotten_[i].size, remembered_[i].begin());
}

std::span<double> Program::allocate(size_t size, const std::string& where) {
  constexpr size_t kMaxDoubles = 1 << 16;
  if ((allocated_ += size) > kMaxDoubles)
    fail(Exit::usage, "bad-expression", "{}: the expressions need more than {} values", where, kMaxDoubles);
  double* at = static_cast<double*>(memory_.allocate(std::max<size_t>(size, 1) * sizeof(double), alignof(double)));
  std::fill_n(at, size, 0.0);
  return {at, size};
}

std::span<double> Program::remember_later(const Value& value, const std::string& where) {
  const std::span<double> memory = allocate(value.size, where);
  forgotten_.push_back(value);
  remembered_.push_back(memory);
  return memory;
}

Value Program::constant(double value) {
  const std::span<double> at = allocate(1, "a number");
  at[0] = value;
  return {at.data(), 1, true};
}

/// Recursive descent over one text; each function is a line of the grammar.
class Program::Compiler {
 public:
  Compiler(Program& program, std::string_view text, const std::string& where, const Program::Names& names,
           const Program::Memory* memory)
      : program_(program), text_(text), where_(where), names_(names), memory_(memory) {}

  Value compile() {
    constexpr size_t kMaxText = 4096;
    if (text_.size() > kMaxText) wrong(fmt::format("{} characters are too many; at most {}", text_.size(), kMaxText));
    if (memory_ == nullptr) return whole();
    if (program_.at_start_ == nullptr)
      program_.at_start_ = program_.remember_later(program_.constant(0), where_).data();
    const std::span<double> now = program_.allocate(memory_->start.size, where_);
    last_ = program_.remember_later({now.data(), now.size()}, where_);
    const Value next = whole();
    if (next.size != 1 && next.size != now.size())
      wrong(fmt::format("it has {} values, and its start {}", next.size, now.size()), 0);
    return emit_to(now.data(), "where", {{program_.at_start_, 1}, memory_->start, next});
  }

 private:
  Value whole() {
    const Value value = disjunction();
    if (peek() != '\0') wrong(fmt::format("{} is not expected", shown()));
    return value;
  }
  // disjunction := conjunction { "or" conjunction };  conjunction := negation { "and" negation }
  Value disjunction() {
    Value left = conjunction();
    while (take_word("or")) left = emit("or", {left, conjunction()});
    return left;
  }
  Value conjunction() {
    Value left = negation();
    while (take_word("and")) left = emit("and", {left, negation()});
    return left;
  }
  // negation := "not" negation | comparison
  Value negation() {
    const Depth depth(*this);
    return take_word("not") ? emit("not", {negation()}) : comparison();
  }
  // comparison := sum { ("<" | "<=" | ">" | ">=" | "==" | "!=") sum }, where a < b < c is a < b and b < c
  Value comparison() {
    Value left = sum();
    std::optional<Value> all;
    while (const std::optional<std::string_view> sign = take_any({"<=", ">=", "<", ">", "==", "!="})) {
      const Value right = sum();
      const Value one = emit(*sign, {left, right});
      all = all ? emit("and", {*all, one}) : one;
      left = right;
    }
    return all.value_or(left);
  }
  Value sum() {
    Value left = product();
    while (const std::optional<std::string_view> sign = take_any({"+", "-"})) left = emit(*sign, {left, product()});
    return left;
  }
  Value product() {
    Value left = unary();
    while (const std::optional<std::string_view> sign = take_any({"*", "/"})) left = emit(*sign, {left, unary()});
    return left;
  }
  // unary := "-" unary | element [ "^" unary ]
  Value unary() {
    const Depth depth(*this);
    if (take("-")) return emit("-", {unary()});
    const Value base = element();
    return take("^") ? emit("^", {base, unary()}) : base;
  }
  // element := primary { "[" index "]" };  index := i | [i] ":" [j], counted from the end where negative, as in Python
  Value element() {
    Value value = primary();
    while (take("[")) {
      const auto size = static_cast<int64_t>(value.size);
      std::optional<int64_t> first = integer();
      const bool slice = take(":");
      std::optional<int64_t> last = slice ? integer() : std::nullopt;
      if (!slice && !first) wrong(fmt::format("want an index or a slice, as in [0] and [1:3], got {}", shown()));
      const int64_t begin = first.value_or(0) + (first.value_or(0) < 0 ? size : 0);
      const int64_t end = slice ? last.value_or(size) + (last.value_or(0) < 0 ? size : 0) : begin + 1;
      if (begin < 0 || end > size || begin > end) wrong(fmt::format("an index lies outside of {} values", size));
      want("]");
      value.at += begin;
      value.size = static_cast<size_t>(end - begin);
    }
    return value;
  }
  // primary := number | "(" disjunction ")" | "[" list "]" | name | function "(" list ")"
  Value primary() {
    if (take("(")) {
      const Value value = disjunction();
      want(")");
      return value;
    }
    if (take("[")) return concatenation(list("]"));
    const char next = peek();
    if ((next >= '0' && next <= '9') || next == '.') {
      double number = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), number);
      if (error != std::errc()) wrong(fmt::format("{} is no number", shown()));
      at_ = static_cast<size_t>(end - text_.data());
      return program_.constant(number);
    }
    const size_t start = at_;
    const std::string name = take_name();
    if (name.empty())
      wrong(next == '\0' ? "it ends where a value is wanted" : fmt::format("want a value, got {}", shown()));
    if (take("(")) return call(name, start);
    if (name == "inf") return program_.constant(kInf);
    if (name == "pi") return program_.constant(std::numbers::pi);
    try {
      return names_(name);
    } catch (const Error& error) { wrong(error.what(), start); }
  }
  Value call(const std::string& name, size_t start) {
    if (name == "before" && memory_ != nullptr) {
      const size_t argument = at_;
      peek();
      if (take_name() == memory_->name && take(")")) return {last_.data(), last_.size()};
      at_ = argument;
    }
    const std::vector<Value> arguments = list(")");
    if (name == "before" && arguments.size() == 1) {
      const std::span<double> memory = program_.remember_later(arguments[0], where_);
      return {memory.data(), memory.size()};
    }
    const std::vector<std::string> names = Program::function_names();
    if (std::ranges::find(names, name) == names.end())
      wrong(fmt::format("no function {}{}", name, suggestion(name, names)), start);
    return emit(name, arguments, start);
  }
  std::vector<Value> list(std::string_view end) {
    std::vector<Value> values;
    do values.push_back(disjunction());
    while (take(","));
    want(end);
    return values;
  }
  Value concatenation(const std::vector<Value>& parts) {
    size_t size = 0;
    for (const Value& part : parts) size += part.size;
    const std::span<double> all = program_.allocate(size, where_);
    bool constant = true;
    for (size_t i = 0, at = 0; i < parts.size(); at += parts[i++].size)
      constant &= emit_to(all.data() + at, "=", {parts[i]}).constant;
    return {all.data(), size, constant};
  }

  /// The element-wise result of vectors of one size and numbers, or the one number of a function that reduces.
  Value emit(std::string_view name, const std::vector<Value>& operands, std::optional<size_t> start = std::nullopt) {
    return emit_to(nullptr, name, operands, start);
  }
  Value emit_to(double* out, std::string_view name, const std::vector<Value>& operands,
                std::optional<size_t> start = std::nullopt) {
    const auto function = std::ranges::find_if(
        Program::functions(), [&](const Function& f) { return f.name == name && f.arguments == operands.size(); });
    if (function == Program::functions().end())
      wrong(fmt::format("{} does not take {} arguments", name, operands.size()), start);
    Instruction instruction{function->execute, 1, nullptr, {}, {}};
    for (const Value& operand : operands)
      if (operand.size != 1) instruction.n = operand.size;
    bool constant = true;
    for (size_t i = 0; i < std::size(instruction.operand); ++i) {
      const Value& operand = operands[i < operands.size() ? i : 0];
      if (operand.size != 1 && operand.size != instruction.n)
        wrong(fmt::format("vectors of {} and {} values do not go together", operand.size, instruction.n), start);
      instruction.operand[i] = operand.at;
      instruction.stride[i] = operand.size == 1 ? 0 : 1;
      constant &= operand.constant;
    }
    const size_t size = function->reduces ? 1 : instruction.n;
    instruction.out = out != nullptr ? out : program_.allocate(size, where_).data();
    if (constant)
      instruction.execute(instruction);
    else
      program_.instructions_.push_back(instruction);
    return {instruction.out, size, constant};
  }

  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(std::string_view token) {
    peek();
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  std::optional<std::string_view> take_any(std::initializer_list<std::string_view> tokens) {
    for (const std::string_view token : tokens)
      if (take(token)) return token;
    return std::nullopt;
  }
  void want(std::string_view token) {
    if (!take(token)) wrong(fmt::format("want {}, got {}", token, shown()));
  }
  static bool is_word(char c) { return is_letter(c) || (c >= '0' && c <= '9'); }
  bool take_word(std::string_view word) {
    peek();
    const std::string_view rest = text_.substr(at_);
    if (!rest.starts_with(word) || (rest.size() > word.size() && is_word(rest[word.size()]))) return false;
    at_ += word.size();
    return true;
  }
  /// word [ ":" (letters, digits, "_" and "." | "'" anything "'") ]
  std::string take_name() {
    if (!is_letter(peek())) return "";
    const size_t start = at_;
    while (at_ < text_.size() && is_word(text_[at_])) ++at_;
    std::string name(text_.substr(start, at_ - start));
    if (at_ + 1 >= text_.size() || text_[at_] != ':') return name;
    const size_t object = ++at_;
    if (text_[at_] == '\'') {
      const size_t quote = text_.find('\'', at_ + 1);
      if (quote == std::string_view::npos) wrong("a ' has no end");
      at_ = quote + 1;
      return name + ':' + std::string(text_.substr(object + 1, quote - object - 1));
    }
    while (at_ < text_.size() && (is_word(text_[at_]) || text_[at_] == '.')) ++at_;
    return name + ':' + std::string(text_.substr(object, at_ - object));
  }
  std::optional<int64_t> integer() {
    peek();
    int64_t value = 0;
    constexpr int64_t kMax = 1 << 20;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (error == std::errc::invalid_argument) return std::nullopt;
    if (error != std::errc() || value < -kMax || value > kMax) wrong("an index is too large");
    at_ = static_cast<size_t>(end - text_.data());
    return value;
  }

  /// The next character, for an error.
  std::string shown() {
    const char next = peek();
    if (at_ >= text_.size()) return "the end";
    return next > ' ' && next < 127 ? fmt::format("'{}'", next) : fmt::format("byte {}", static_cast<uint8_t>(next));
  }
  [[noreturn]] void wrong(const std::string& fact, std::optional<size_t> at = std::nullopt) {
    fail(Exit::usage, "bad-expression", "{}: at column {} of the expression: {}", where_, at.value_or(at_) + 1, fact);
  }

  /// Text of any nesting does not use up the stack.
  struct Depth {
    explicit Depth(Compiler& compiler) : depth(compiler.depth_) {
      if (++depth > 200) compiler.wrong("it is nested too deeply");
    }
    ~Depth() { --depth; }
    int& depth;
  };

  Program& program_;
  std::string_view text_;
  const std::string& where_;
  const Program::Names& names_;
  const Program::Memory* memory_;
  std::span<double> last_;  // of memory_
  size_t at_ = 0;
  int depth_ = 0;
};

Value Program::compile(std::string_view text, const std::string& where, const Names& names, const Memory* memory) {
  return Compiler(*this, text, where, names, memory).compile();
}

}  // namespace myriad
