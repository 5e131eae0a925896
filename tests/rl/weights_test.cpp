#include "rl/weights.hpp"

#include <doctest/doctest.h>

#include <cstring>

#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("rl/weights");

namespace {

TensorMap example() {
  const std::vector<float> f{1, 2, 3, 4, 5, 6};
  const std::vector<double> d{0.1, -0.2};
  const std::vector<int64_t> i{-7, 1LL << 60};
  return {{"a", Tensor::of(std::span<const float>(f), {2, 3})},
          {"b", Tensor::of(std::span<const double>(d), {2})},
          {"empty", Tensor::of(std::span<const float>(), {0, 4})},
          {"c", Tensor::of(std::span<const int64_t>(i), {2, 1})}};
}

/// A file with this header and `data` zero bytes.
std::vector<std::byte> file_of(std::string_view header, size_t data) {
  std::vector<std::byte> file(8 + header.size() + data);
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  std::memcpy(file.data() + 8, header.data(), header.size());
  return file;
}

void refuses(std::string_view header, size_t data, std::string_view part) {
  CAPTURE(header);
  try {
    decode_safetensors(file_of(header, data), "x.safetensors");
    FAIL("it was accepted");
  } catch (const Error& error) {
    CHECK(error.code() == "corrupt-file");
    CHECK(std::string(error.what()).starts_with("x.safetensors: "));
    CHECK_MESSAGE(std::string(error.what()).find(part) != std::string::npos, error.what());
  }
}

}  // namespace

TEST_CASE("safetensors: what is written is read, tensors and metadata") {
  const TensorMap tensors = example();
  const auto file = encode_safetensors(tensors, {{"format", "myriad"}, {"quote\"", "\n"}});
  Metadata metadata;
  const TensorMap read = decode_safetensors(file, "x", &metadata);
  REQUIRE(read.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    CHECK(read.at(name).shape == tensor.shape);
    CHECK(read.at(name).bytes == tensor.bytes);
  }
  CHECK(read.at("b").f64() == std::vector<double>{0.1, -0.2});
  CHECK(read.at("c").i64()[1] == 1LL << 60);
  CHECK(metadata.at("quote\"") == "\n");
  CHECK_THROWS_AS(read.at("b").f32(), Error);
}

TEST_CASE("safetensors: the bytes are the public format's") {
  const std::vector<float> f{1.0f};
  const auto file = encode_safetensors({{"w", Tensor::of(std::span<const float>(f), {1})}});
  const std::string text(reinterpret_cast<const char*>(file.data()) + 8, file.size() - 12);
  CHECK(text.starts_with(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})"));
  CHECK((file.size() - 4) % 8 == 0);
}

TEST_CASE("safetensors: lies about places and sizes are refused by name") {
  refuses("{", 0, "not JSON");
  refuses("[]", 0, "not a JSON object");
  refuses(R"({"a":3})", 0, "not described by an object");
  refuses(R"({"a":{"dtype":"F32","shape":[1]}})", 4, "needs dtype");
  refuses(R"({"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype");
  refuses(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "its shape wants 8");
  refuses(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "impossible shape");
  refuses(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0, "impossible shape");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, "outside");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "outside");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, "belong to no tensor");
  refuses(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "hole");
  refuses(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
      8, "overlap");
  refuses(R"({"__metadata__":{"a":1}})", 0, "not a string");
  auto huge = file_of("{}", 0);
  huge[7] = std::byte{0x7f};
  CHECK_THROWS_AS(decode_safetensors(huge, "x"), Error);
  CHECK_THROWS_AS(decode_safetensors({}, "x"), Error);
}

TEST_CASE("safetensors: a thousand mangled and cut files are refused or read whole, never a crash") {
  const auto good = encode_safetensors(example(), {{"k", "v"}});
  RandomStream random(3, StreamPurpose::simulation, 0);
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    auto file = good;
    if (i % 2 == 0) {
      file.resize(random.below(good.size()));  // every cut loses a byte that something needs
    } else {
      const uint64_t header = 8 + good.size() / 2;
      for (int k = 0; k < 4; ++k) file[random.below(header)] = static_cast<std::byte>(random.below(256));
    }
    try {
      for (const auto& [name, tensor] : decode_safetensors(file, "x")) CHECK(tensor.bytes.size() <= file.size());
      CHECK(i % 2 == 1);
    } catch (const Error& error) {
      CHECK(error.code() == "corrupt-file");
      ++refused;
    }
  }
  CHECK(refused > 900);
}

TEST_CASE("parameters: named and flat are each other's inverse, another module's are refused") {
  ModelConfig config;
  config.fcnet_hiddens = {8};
  const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {4}), Space::discrete(2), config);
  const auto values = initial_parameters(spec, 5);
  TensorMap named = named_parameters(spec, values);
  CHECK(named.at("encoder.0.weight").shape == std::vector<size_t>{8, 4});
  CHECK(flat_parameters(spec, named, "x") == values);
  const auto code = [&](const TensorMap& tensors) {
    try {
      flat_parameters(spec, tensors, "x");
    } catch (const Error& error) { return error.code(); }
    return std::string();
  };
  TensorMap more = named;
  more["other"] = named.at("pi.bias");
  CHECK(code(more) == "foreign-checkpoint");
  TensorMap reshaped = named;
  reshaped["pi.weight"].shape = {8, 2};
  CHECK(code(reshaped) == "foreign-checkpoint");
  named.erase("pi.bias");
  CHECK(code(named) == "foreign-checkpoint");
}

TEST_SUITE_END();
