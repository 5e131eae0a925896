#include "rl/weights.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <limits>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kMaxHeaderBytes = size_t{8} << 20;
constexpr std::array<std::pair<DType, std::string_view>, 5> kTypes{
    {{DType::f32, "F32"}, {DType::f64, "F64"}, {DType::u8, "U8"}, {DType::i32, "I32"}, {DType::i64, "I64"}}};

template <class... Args>
[[noreturn]] void corrupt(std::string_view name, fmt::format_string<Args...> format, Args&&... args) {
  fail(Exit::environment, "corrupt-file", "{}: {}", name, fmt::format(format, std::forward<Args>(args)...));
}

size_t bytes_of(DType dtype) { return dtype == DType::u8 ? 1 : dtype == DType::f32 || dtype == DType::i32 ? 4 : 8; }

std::string_view type_name(DType dtype) {
  for (const auto& [type, text] : kTypes)
    if (type == dtype) return text;
  fail(Exit::internal, "internal", "dtype {} has no safetensors name", static_cast<int>(dtype));
}

template <class T>
Tensor tensor_of(DType dtype, std::span<const T> values, std::vector<size_t> shape) {
  size_t count = 1;
  for (const size_t n : shape) count *= n;
  check(count == values.size(), "a tensor of shape [{}] got {} values", fmt::join(shape, ", "), values.size());
  const auto bytes = std::as_bytes(values);
  return {dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

template <class T>
std::vector<T> values_of(const Tensor& tensor, DType want) {
  if (tensor.dtype != want) corrupt("tensor", "dtype is {}, want {}", type_name(tensor.dtype), type_name(want));
  std::vector<T> values(tensor.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(T));
  return values;
}

std::optional<size_t> as_size(const boost::json::value& value) {
  if (const auto* u = value.if_uint64()) return *u;
  if (const auto* i = value.if_int64(); i && *i >= 0) return static_cast<size_t>(*i);
  return std::nullopt;
}

/// One tensor's entry in the header, not yet checked.
struct Entry {
  std::string key;
  Tensor tensor;
  size_t begin, end;
};

Entry read_entry(std::string_view key, const boost::json::value& value, size_t data_bytes, std::string_view name) {
  const auto* object = value.if_object();
  if (!object) corrupt(name, "tensor '{}' is not described by an object", key);
  const auto* dtype = object->if_contains("dtype");
  const auto* shape = object->if_contains("shape");
  const auto* offsets = object->if_contains("data_offsets");
  if (!dtype || !shape || !offsets || object->size() != 3)
    corrupt(name, "tensor '{}' needs dtype, shape and data_offsets", key);
  if (!dtype->is_string() || !shape->is_array() || !offsets->is_array() || offsets->get_array().size() != 2)
    corrupt(name, "tensor '{}' has a field of a wrong type", key);
  Entry entry{std::string(key), {}, 0, 0};
  const auto type = std::find_if(kTypes.begin(), kTypes.end(),
                                 [&](const auto& t) { return t.second == std::string_view(dtype->get_string()); });
  if (type == kTypes.end())
    corrupt(name, "tensor '{}' has the unknown dtype '{}'", key, std::string_view(dtype->get_string()));
  entry.tensor.dtype = type->first;
  size_t bytes = bytes_of(type->first);
  for (const auto& n : shape->get_array()) {
    const auto size = as_size(n);
    // No dimension may exceed what the file holds: that also keeps the product from overflowing.
    if (!size || __builtin_mul_overflow(bytes, *size, &bytes))
      corrupt(name, "tensor '{}' has an impossible shape", key);
    entry.tensor.shape.push_back(*size);
  }
  const auto begin = as_size(offsets->get_array()[0]), end = as_size(offsets->get_array()[1]);
  if (!begin || !end || *begin > *end || *end > data_bytes)
    corrupt(name, "tensor '{}' lies outside the file's {} data bytes", key, data_bytes);
  if (*end - *begin != bytes) corrupt(name, "tensor '{}' has {} bytes, its shape wants {}", key, *end - *begin, bytes);
  entry.begin = *begin;
  entry.end = *end;
  return entry;
}

}  // namespace

Tensor Tensor::of(std::span<const float> values, std::vector<size_t> shape) {
  return tensor_of(DType::f32, values, std::move(shape));
}
Tensor Tensor::of(std::span<const double> values, std::vector<size_t> shape) {
  return tensor_of(DType::f64, values, std::move(shape));
}
Tensor Tensor::of(std::span<const int64_t> values, std::vector<size_t> shape) {
  return tensor_of(DType::i64, values, std::move(shape));
}
std::vector<float> Tensor::f32() const { return values_of<float>(*this, DType::f32); }
std::vector<double> Tensor::f64() const { return values_of<double>(*this, DType::f64); }
std::vector<int64_t> Tensor::i64() const { return values_of<int64_t>(*this, DType::i64); }

std::vector<std::byte> encode_safetensors(const TensorMap& tensors, const Metadata& metadata) {
  // Wide elements first, so that every tensor is aligned for a reader that maps the file.
  std::vector<const TensorMap::value_type*> order;
  for (const auto& item : tensors) order.push_back(&item);
  std::stable_sort(order.begin(), order.end(),
                   [](auto* a, auto* b) { return bytes_of(a->second.dtype) > bytes_of(b->second.dtype); });
  boost::json::object header;
  if (!metadata.empty()) {
    boost::json::object object;
    for (const auto& [key, value] : metadata) object[key] = value;
    header["__metadata__"] = std::move(object);
  }
  size_t offset = 0;
  for (const auto* item : order) {
    const Tensor& tensor = item->second;
    size_t bytes = bytes_of(tensor.dtype);
    for (const size_t n : tensor.shape) bytes *= n;
    check(bytes == tensor.bytes.size(), "tensor '{}' holds {} bytes, its shape wants {}", item->first,
          tensor.bytes.size(), bytes);
    boost::json::array shape;
    for (const size_t n : tensor.shape) shape.push_back(n);
    header[item->first] = boost::json::object{{"dtype", type_name(tensor.dtype)},
                                              {"shape", std::move(shape)},
                                              {"data_offsets", boost::json::array{offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = boost::json::serialize(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  check(text.size() <= kMaxHeaderBytes, "a safetensors header of {} bytes is more than {}", text.size(),
        kMaxHeaderBytes);
  std::vector<std::byte> file(8 + text.size() + offset);
  const uint64_t length = text.size();  // little-endian, as every machine this runs on
  std::memcpy(file.data(), &length, 8);
  std::memcpy(file.data() + 8, text.data(), text.size());
  std::byte* out = file.data() + 8 + text.size();
  for (const auto* item : order) out = std::copy(item->second.bytes.begin(), item->second.bytes.end(), out);
  return file;
}

TensorMap decode_safetensors(std::span<const std::byte> file, std::string_view name, Metadata* metadata) {
  if (file.size() < 8) corrupt(name, "{} bytes are too few for a safetensors file", file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (length > kMaxHeaderBytes || length > file.size() - 8)
    corrupt(name, "header length {} does not fit a file of {} bytes", length, file.size());
  const auto data = file.subspan(8 + length);
  boost::system::error_code error;
  const boost::json::value header =
      boost::json::parse(boost::json::string_view(reinterpret_cast<const char*>(file.data()) + 8, length), error);
  if (error) corrupt(name, "the header is not JSON: {}", error.message());
  if (!header.is_object()) corrupt(name, "the header is not a JSON object");

  std::vector<Entry> entries;
  Metadata texts;
  for (const auto& [key, value] : header.get_object()) {
    if (key == "__metadata__") {
      if (!value.is_object()) corrupt(name, "__metadata__ is not an object");
      for (const auto& [k, v] : value.get_object()) {
        if (!v.is_string()) corrupt(name, "__metadata__ '{}' is not a string", std::string_view(k));
        texts[std::string(k)] = std::string(v.get_string());
      }
    } else {
      entries.push_back(read_entry(key, value, data.size(), name));
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  size_t position = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != position)
      corrupt(name, "tensor '{}' begins at {}, want {}: a {}", entry.key, entry.begin, position,
              entry.begin > position ? "hole" : "overlap");
    position = entry.end;
  }
  if (position != data.size()) corrupt(name, "{} data bytes belong to no tensor", data.size() - position);

  TensorMap tensors;
  for (Entry& entry : entries) {
    const auto bytes = data.subspan(entry.begin, entry.end - entry.begin);
    entry.tensor.bytes.assign(bytes.begin(), bytes.end());
    tensors.emplace(std::move(entry.key), std::move(entry.tensor));
  }
  if (metadata) *metadata = std::move(texts);
  return tensors;
}

TensorMap named_parameters(const ModuleSpec& spec, std::span<const float> values) {
  check(values.size() == spec.num_parameters(), "{} values for a module of {} parameters", values.size(),
        spec.num_parameters());
  TensorMap tensors;
  for (const Parameter& p : spec.parameters())
    tensors.emplace(p.name, Tensor::of(values.subspan(p.offset, p.count), {p.shape.begin(), p.shape.end()}));
  return tensors;
}

std::vector<float> flat_parameters(const ModuleSpec& spec, const TensorMap& tensors, std::string_view name) {
  const auto foreign = [&](const std::string& fact) {
    fail(Exit::usage, "foreign-checkpoint", "{} was not written by this module ({}): {}", name, spec.to_string(), fact);
  };
  std::vector<float> values(spec.num_parameters());
  const std::vector<Parameter> parameters = spec.parameters();
  for (const Parameter& p : parameters) {
    const auto found = tensors.find(p.name);
    if (found == tensors.end()) foreign(fmt::format("it has no tensor '{}'", p.name));
    const Tensor& tensor = found->second;
    if (tensor.dtype != DType::f32 ||
        !std::equal(tensor.shape.begin(), tensor.shape.end(), p.shape.begin(), p.shape.end(),
                    [](size_t a, int b) { return a == static_cast<size_t>(b); }))
      foreign(fmt::format("'{}' is {} [{}], want F32 [{}]", p.name, type_name(tensor.dtype),
                          fmt::join(tensor.shape, ", "), fmt::join(p.shape, ", ")));
    const std::vector<float> part = tensor.f32();
    std::copy(part.begin(), part.end(), values.begin() + static_cast<ptrdiff_t>(p.offset));
  }
  if (tensors.size() != parameters.size())
    foreign(fmt::format("it has {} tensors, want {}", tensors.size(), parameters.size()));
  return values;
}

}  // namespace myriad
