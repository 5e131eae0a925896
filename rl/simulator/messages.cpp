#include "rl/simulator/messages.hpp"

#include <cstring>

#include "rl/check.hpp"

namespace myriad::simulator {
namespace {

constexpr int64_t kMaxElements = 1 << 26;
constexpr int kMaxDepth = 8;

/// `name`: "observation", or with the path of a part: "observation 'a/b'".
[[noreturn]] void bad(const std::string& name, std::string_view what) {
  fail(Exit::environment, "bad-space", "the simulator's {} space {}", name, what);
}

std::string below(const std::string& name, const std::string& part) {
  return name.ends_with('\'') ? fmt::format("{}/{}'", name.substr(0, name.size() - 1), part)
                              : fmt::format("{} '{}'", name, part);
}

int64_t positive(int64_t n, const std::string& name, std::string_view what) {
  if (n <= 0 || n > kMaxElements) bad(name, fmt::format("has {} {}, want 1 to {}", what, n, kMaxElements));
  return n;
}

/// The dimensions of a space of `n` elements: none where it has one.
std::vector<int> shape_of(const SpaceT& space, size_t n, const std::string& name) {
  int64_t elements = 1;
  for (const int32_t size : space.shape)
    elements = std::min(elements * positive(size, name, "a size of"), kMaxElements);
  if (!space.shape.empty() && elements != static_cast<int64_t>(n))
    bad(name, fmt::format("has a shape of {} elements, and has {}", elements, n));
  return {space.shape.begin(), space.shape.end()};
}

myriad::Space multi_discrete(const SpaceT& space, const std::string& name) {
  positive(std::ssize(space.nvec), name, "elements:");
  if (!space.starts.empty() && space.starts.size() != space.nvec.size())
    bad(name, fmt::format("has {} starts, want {}", space.starts.size(), space.nvec.size()));
  for (size_t i = 0; i < space.nvec.size(); ++i) {
    positive(space.nvec[i], name, "nvec =");
    if (!space.starts.empty() && int64_t{space.starts[i]} + space.nvec[i] > INT32_MAX)
      bad(name, "has values beyond int32");
  }
  return myriad::MultiDiscrete{{space.nvec.begin(), space.nvec.end()},
                               {space.starts.begin(), space.starts.end()},
                               shape_of(space, space.nvec.size(), name)};
}

/// A part's name has a place in its path.
void check_part(const myriad::Dict& before, const std::string& part, const std::string& name) {
  if (part.empty()) bad(name, "has a part without a name");
  for (const auto& [other, space] : before.spaces)
    if (other == part) bad(name, fmt::format("has two parts of the name '{}'", part));
}

myriad::Space box(const SpaceT& space, const std::string& name) {
  myriad::Box box{
      space.low, space.high, {space.shape.begin(), space.shape.end()}, static_cast<myriad::DType>(space.dtype)};
  if (const std::string problem = problem_of(box); !problem.empty()) bad(name, problem);
  return box;
}

myriad::Space convert(const SpaceT* space, const std::string& name, int depth) {
  if (space == nullptr) bad(name, "is missing");
  if (depth > kMaxDepth) bad(name, "is nested too deeply");
  if (space->dtype > DType::MAX) bad(name, "has a dtype that is none");
  switch (space->kind) {
    case SpaceKind::Box:
      return box(*space, name);
    case SpaceKind::Discrete:
      positive(space->n, name, "n =");
      if (int64_t{space->start} + space->n > INT32_MAX) bad(name, "has values beyond int32");
      return myriad::Space::discrete(space->n, space->start);
    case SpaceKind::MultiDiscrete:
      return multi_discrete(*space, name);
    case SpaceKind::MultiBinary: {
      const auto n = static_cast<int>(positive(space->n, name, "n ="));
      return myriad::MultiBinary{n, shape_of(*space, static_cast<size_t>(n), name)};
    }
    case SpaceKind::Dict: {
      myriad::Dict dict;
      if (space->spaces.empty() || space->names.size() != space->spaces.size()) bad(name, "wants a name for each part");
      for (size_t i = 0; i < space->spaces.size(); ++i) {
        const std::string& part = space->names[i];
        check_part(dict, part, name);
        dict.spaces.emplace_back(part, convert(space->spaces[i].get(), below(name, part), depth + 1));
      }
      return dict;
    }
    case SpaceKind::Tuple: {
      myriad::Tuple tuple;
      if (space->spaces.empty()) bad(name, "has no parts");
      for (size_t i = 0; i < space->spaces.size(); ++i)
        tuple.spaces.push_back(convert(space->spaces[i].get(), below(name, std::to_string(i)), depth + 1));
      return tuple;
    }
  }
  bad(name, "is of a kind that is none");
}

// FlatBuffers' verifier looks at where a vector's length lies, not at where its elements do.
template <class V>
bool lies_straight(const V* vector) {
  return vector == nullptr || reinterpret_cast<uintptr_t>(vector->Data()) % sizeof(uint64_t) == 0;
}

bool lies_straight(const Space* space) {
  if (space == nullptr) return true;
  if (!lies_straight(space->low()) || !lies_straight(space->high())) return false;
  if (space->spaces() == nullptr) return true;
  for (const Space* part : *space->spaces())
    if (!lies_straight(part)) return false;
  return true;
}

bool lies_straight(const Message& message) {
  if (const auto* hello = message.body_as_Hello())
    return lies_straight(hello->observation()) && lies_straight(hello->action());
  if (const auto* stepped = message.body_as_Stepped()) return lies_straight(stepped->rewards());
  if (const auto* reset = message.body_as_Reset()) return lies_straight(reset->seeds());
  return true;
}

}  // namespace

std::vector<std::byte> frame(const MessageT& message) {
  flatbuffers::FlatBufferBuilder builder;
  // Not FinishSizePrefixed: that aligns to the length's first byte, and readers verify what comes after it.
  builder.Finish(Message::Pack(builder, &message), MessageIdentifier());
  const uint32_t size = builder.GetSize();
  std::vector<std::byte> frame(sizeof size + size);
  std::memcpy(frame.data(), &size, sizeof size);
  std::memcpy(frame.data() + sizeof size, builder.GetBufferPointer(), size);
  return frame;
}

std::optional<MessageT> decode(std::span<const std::byte> bytes) {
  std::vector<uint64_t> aligned((bytes.size() + 7) / 8);  // numbers are read where they lie
  if (!bytes.empty()) std::memcpy(aligned.data(), bytes.data(), bytes.size());
  const auto* data = reinterpret_cast<const uint8_t*>(aligned.data());
  flatbuffers::Verifier verifier(data, bytes.size(), 16, 100'000);
  if (bytes.size() < 8 || !VerifyMessageBuffer(verifier)) return std::nullopt;
  if (!lies_straight(*GetMessage(data))) return std::nullopt;
  MessageT message;
  GetMessage(data)->UnPackTo(&message);
  if (message.body.value == nullptr) return std::nullopt;
  return message;
}

myriad::Space to_space(const SpaceT* space, const char* name) { return convert(space, name, 0); }

std::unique_ptr<SpaceT> to_wire(const myriad::Space& space) {
  auto out = std::make_unique<SpaceT>();
  if (const auto* box = space.get_if<myriad::Box>()) {
    out->kind = SpaceKind::Box;
    out->dtype = static_cast<DType>(box->dtype);
    out->shape.assign(box->shape.begin(), box->shape.end());
    out->low = box->low;
    out->high = box->high;
  } else if (const auto* one = space.get_if<myriad::Discrete>()) {
    out->kind = SpaceKind::Discrete;
    out->n = one->n;
    out->start = one->start;
  } else if (const auto* multi = space.get_if<myriad::MultiDiscrete>()) {
    out->kind = SpaceKind::MultiDiscrete;
    out->nvec.assign(multi->nvec.begin(), multi->nvec.end());
    out->starts.assign(multi->start.begin(), multi->start.end());
    out->shape.assign(multi->shape.begin(), multi->shape.end());
  } else if (const auto* binary = space.get_if<myriad::MultiBinary>()) {
    out->kind = SpaceKind::MultiBinary;
    out->n = binary->n;
    out->shape.assign(binary->shape.begin(), binary->shape.end());
  } else if (const auto* dict = space.get_if<myriad::Dict>()) {
    out->kind = SpaceKind::Dict;
    for (const auto& [name, part] : dict->spaces) {
      out->names.push_back(name);
      out->spaces.push_back(to_wire(part));
    }
  } else {
    out->kind = SpaceKind::Tuple;
    for (const myriad::Space& part : space.get_if<myriad::Tuple>()->spaces) out->spaces.push_back(to_wire(part));
  }
  return out;
}

static_assert(static_cast<int>(myriad::DType::i64) == static_cast<int>(DType::i64));

}  // namespace myriad::simulator
