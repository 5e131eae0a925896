// decode_safetensors(): [mode] and a file, or [mode][u16 data bytes] and a header and data whose length is filled in.
#include "rl/check.hpp"
#include "rl/weights.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace myriad {
namespace {

bool same(const TensorMap& a, const TensorMap& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.dtype == y.second.dtype && x.second.shape == y.second.shape &&
           x.second.bytes == y.second.bytes;
  });
}

void use(const TensorMap& tensors, const Metadata& metadata) {
  Metadata metadata_again;
  const std::vector<std::byte> file = encode_safetensors(tensors, metadata);
  fuzz::require(same(tensors, decode_safetensors(file, "again", &metadata_again)), "encoded and decoded, the same");
  fuzz::require(metadata == metadata_again, "encoded and decoded, the same metadata");
  for (const auto& [name, tensor] : tensors) {
    if (tensor.dtype == DType::f32) (void)tensor.f32();
    if (tensor.dtype == DType::f64) (void)tensor.f64();
    if (tensor.dtype == DType::i64) (void)tensor.i64();
  }
  static const ModuleSpec spec =
      make_mlp_spec(Space::box(-1, 1, {2}), Space::discrete(2), {.fcnet_hiddens = {1}, .vf_share_layers = true});
  try {
    (void)flat_parameters(spec, tensors, "file");
  } catch (const Error&) { return; }
}

}  // namespace
}  // namespace myriad

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  fuzz::Input input(data, size);
  std::vector<std::byte> file;
  if (input.u8() % 2 == 0) {
    file = input.copy(input.size());
  } else {
    const size_t data_bytes = std::min<size_t>(input.number<uint16_t>(), input.size());
    const uint64_t header_bytes = input.size() - data_bytes;
    const auto length = std::as_bytes(std::span(&header_bytes, 1));
    file.assign(length.begin(), length.end());
    const auto rest = input.take(input.size());
    file.insert(file.end(), rest.begin(), rest.end());
    file.shrink_to_fit();
  }
  Metadata metadata;
  TensorMap tensors;
  try {
    tensors = decode_safetensors(file, "file", &metadata);
  } catch (const Error&) {
    return 0;  // anything else that comes out is a finding
  }
  use(tensors, metadata);
  return 0;
}
