// Writes the first inputs of each target into DIRECTORY/TARGET, from the real encoders: `make_seeds DIRECTORY`.
//
// Run again (run_fuzzers.py --make-seeds) when the schema or a format changes; inputs that once crashed a target have
// names of their own and stay.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "rl/config.hpp"
#include "rl/module_json.hpp"
#include "rl/simulator/messages.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/packed.hpp"
#include "rl/wire/parcel.hpp"
#include "roles/checkpoint.hpp"
#include "tests/fuzz/environments.hpp"

namespace myriad {
namespace {

using Bytes = std::vector<std::byte>;
std::filesystem::path root;

template <class T>
requires std::is_arithmetic_v<T>
void put(Bytes& out, T number) {
  const auto bytes = std::as_bytes(std::span(&number, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}
void put(Bytes& out, std::span<const std::byte> bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

void save(const std::string& target, const std::string& name, const Bytes& bytes) {
  std::filesystem::create_directories(root / target);
  std::ofstream file(root / target / ("seed-" + name), std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}
void save(const std::string& target, const std::string& name, uint8_t mode, std::span<const std::byte> bytes) {
  Bytes all{std::byte{mode}};
  put(all, bytes);
  save(target, name, all);
}

Bytes counting(size_t size) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

/// One message of each kind, with payloads where the kind has some.
std::vector<Message> messages() {
  const SharedBytes few = SharedBytes::of(counting(24)), none = SharedBytes::of({});
  std::vector<Message> list;
  const auto add = [&](auto body, std::vector<SharedBytes> payloads = {}) {
    list.push_back(make_message(std::move(body), std::move(payloads)));
    list.back().run = 0x123456789;
    list.back().epoch = 3;
  };
  wire::FragmentHeaderT fragment;
  fragment.key = std::make_unique<wire::FragmentKey>(1, 2, 3);
  fragment.episodes.emplace_back(12.5, 40, 6, 1);
  fragment.episodes.emplace_back(-1.0, 41, 7, 0);
  wire::GrantT grant;
  grant.slots.emplace_back(1, 2, 7);
  grant.slots.emplace_back(2, 0, 8);
  wire::IterationReportT report;
  for (const char* key : {"episode_return_mean", "loss"}) {
    auto value = std::make_unique<wire::KeyValueT>();
    value->key = key;
    value->value = 0.5;
    report.metrics.push_back(std::move(value));
  }
  report.episodes.emplace_back(12.5, 40, 6, 2);
  wire::CheckpointDoneT done;
  auto entry = std::make_unique<wire::FileEntryT>();
  entry->name = "learner.safetensors";
  done.files.push_back(std::move(entry));
  wire::AgentHelloT hello;
  hello.host = "a";
  wire::AgentWelcomeT agent;
  agent.config = "seed = 1\n";
  agent.learner_endpoint = "ipc://learner";
  wire::AgentStatusT status;
  status.last_cause = "SIGKILL";
  wire::EventT event;
  event.kind = "restart";
  wire::RefusedT refused;
  refused.reason = "no";
  wire::JoinT join;
  join.slots.emplace_back(1, 2, 3, true);
  wire::GroupStateT state;
  state.marks.emplace_back(0, 1, 70);
  wire::AgentMoveT move;
  move.learner_endpoint = "ipc://learner";
  wire::LearnerStatusT standing;
  standing.state = std::make_unique<wire::GroupStateT>(state);
  standing.parts = {0, 1};
  standing.num_parts = 2;
  wire::GroupOrderT order;
  order.form = true;
  order.holders = {0, 1};
  order.state = std::make_unique<wire::GroupStateT>(state);
  wire::RendezvousT rendezvous;
  rendezvous.entries.push_back(std::make_unique<wire::RendezvousEntryT>());
  rendezvous.entries[0]->key = "0";
  rendezvous.entries[0]->value = {1, 2, 3};
  wire::ScaleReplyT scaled;
  scaled.text = "no";
  wire::LearnerHelloT learner;
  learner.data_endpoint = "tcp://127.0.0.1:1";
  wire::LearnerWelcomeT learner_welcome;
  learner_welcome.config = "seed = 1\n";
  wire::CommandT command;
  command.directory = "checkpoints/1";
  wire::StopT stop;
  stop.reason = "done";
  wire::ProcessErrorT error;
  error.code = "nan";
  Bytes packed;
  pack({few, none}, packed);
  pack({few}, packed);
  wire::ParcelT parcel;
  parcel.count = 2;
  add(std::move(join));
  add(std::move(parcel), {SharedBytes::of(packed)});
  add(wire::SlotStateT());
  add(std::move(fragment), {few});
  add(wire::RunnerStateT(), {few});
  add(wire::WeightsHeaderT(), {few, none});
  add(std::move(grant));
  add(std::move(refused));
  add(wire::RunnerWelcomeT(), {few});
  add(wire::PermitT());
  add(std::move(hello));
  add(std::move(agent), {none});
  add(std::move(status));
  add(std::move(event));
  add(std::move(learner));
  add(std::move(learner_welcome));
  add(wire::AgentStateT());
  add(std::move(report));
  add(std::move(command));
  add(std::move(done));
  add(std::move(stop));
  add(std::move(error));
  add(std::move(move));
  add(std::move(standing));
  add(std::move(order));
  add(std::move(rendezvous));
  add(wire::ScaleRequestT());
  add(std::move(scaled));
  return list;
}

void message_seeds() {
  Bytes stream;
  for (const Message& message : messages()) {
    const Frames frames = encode(message);
    for (const uint8_t mode : {0, 1, 2}) {
      if (mode == 0 && message.payloads.empty()) continue;  // mode 1 says the same
      const auto envelope = mode == 0 ? frames[0].view : frames[0].view.first(frames[0].view.size() - 4);
      Bytes input{std::byte{mode}};
      put(input, static_cast<uint16_t>(envelope.size()));
      put(input, envelope);
      for (const SharedBytes& payload : message.payloads) {
        put(input, static_cast<uint16_t>(payload.view.size()));
        put(input, payload.view);
      }
      if (mode != 2 || !message.payloads.empty())
        save("message", fmt::format("{}-{}", wire::EnumNameBody(message.body.type), mode), input);
    }
    if (stream.size() < 800) pack(frames, stream);
  }
  for (const uint8_t chunk : {0, 6, 255}) {
    Bytes input{std::byte{chunk}, std::byte{0}};
    put(input, stream);
    save("packed", fmt::format("stream-{}", chunk + 1), input);
  }
  Bytes large{std::byte{200}, std::byte{254}};  // 7 x 32 KiB of zeros follow: the payload, then nothing
  for (const uint32_t word : {0x5052594du, 2u, 8u, 0u}) put(large, word);
  const uint32_t rest = 7 * 32768;
  std::memcpy(large.data() + 2 + 12, &rest, 4);
  put(large, counting(8));
  save("packed", "in-place", large);
}

void fragment_seeds() {
  for (uint8_t layout = 0; layout < 4; ++layout)
    for (const uint8_t fit : {0x1c, 0xfc, 0x04, 0x00}) {
      Bytes input{static_cast<std::byte>(layout | fit)};
      put(input, uint64_t{0});
      put(input, Bytes(layout == 1 ? 512 : 256));
      save("fragment", fmt::format("{}-{:02x}", layout, fit), input);
    }
}

void state_seeds() {
  VectorEnv envs = fuzz::saved_environments();
  Bytes obs(2 * envs.row_bytes());
  envs.reset(obs.data());
  const Bytes state = encode_safetensors(envs.state(), {{"content", "rollout_worker"}});
  save("runner_state", "file", 0, state);
  save("runner_state", "numbers", 1, Bytes(2 + 38 * 8));
  save("safetensors", "runner_state", 0, state);
  const ModuleSpec spec =
      make_mlp_spec(Space::box(-1, 1, {2}), Space::discrete(2), {.fcnet_hiddens = {1}, .vf_share_layers = true});
  const Bytes module = encode_safetensors(named_parameters(spec, std::vector<float>(spec.num_parameters(), 0.5f)));
  save("safetensors", "module", 0, module);
  Bytes length_filled_in{std::byte{1}};
  put(length_filled_in, static_cast<uint16_t>(spec.num_parameters() * 4));
  put(length_filled_in, std::span(module).subspan(8));
  save("safetensors", "module-1", length_filled_in);
  Tensor bytes{DType::u8, {3, 0}, {}};
  save("safetensors", "empty", 0, encode_safetensors({}));
  save("safetensors", "no-values", 0,
       encode_safetensors({{"a", bytes}, {"b", {DType::i32, {}, Bytes(4)}}}, {{"k", "v"}}));
  Bytes weights;
  put(weights, uint64_t{5});
  put(weights, uint64_t{8});
  put(weights, uint16_t{12});
  put(weights, counting(12));
  for (const double value : {2.0, 0.5, 1.0, 3.0, 4.0}) put(weights, value);
  save("weights", "filter-of-2", weights);
}

/// Every kind of layer and distribution.
void module_seeds() {
  const auto save_spec = [](const char* name, const ModuleSpec& spec) {
    const std::string text = to_json(spec);
    const auto bytes = std::as_bytes(std::span(text));
    save("module_json", name, Bytes(bytes.begin(), bytes.end()));
  };
  ModelConfig config{.fcnet_hiddens = {3}, .fcnet_use_layernorm = true};
  save_spec("mlp", make_module_spec(Space::box(-1, 1, {2}), Space::box(-1, 1, {2}), config));
  config.encoder = "impala_resnet";
  config.vf_share_layers = true;
  save_spec("impala", make_module_spec(Space::box(0, 255, {2, 9, 8}, DType::u8), Space(MultiDiscrete{{2, 3}}), config));
  config.encoder = "minatar_cnn";
  save_spec("minatar", make_module_spec(Space::box(0, 1, {2, 4, 5, 3}), Space::discrete(2), config));
  config.action_distribution = "squashed_gaussian";
  ModuleSpec critics = make_mlp_spec(Space::box(-1, 1, {2}), Space::box(-1, 1, {2}), config);
  for (const char* name : {"qf1", "qf2"}) critics.networks.push_back({name, {"obs", "actions"}, {Linear{4, 1}}});
  save_spec("critics", critics);
  const std::string_view unnamed =  // as before networks had names
      R"({"obs_size":1,"encoder":[],"action_head":{"kind":"linear","inputs":1,"outputs":2,"initializer":"orthogonal",)"
      R"("gain":1.0},"distribution":{"kind":"categorical","n":2},"log_std_init":0,"log_std_clip":20,)"
      R"("shares_encoder":true,"value_encoder":[],"value_head":{"kind":"linear","inputs":1,"outputs":1,)"
      R"("initializer":"orthogonal","gain":1.0}})";
  const auto bytes = std::as_bytes(std::span(unnamed));
  save("module_json", "unnamed", Bytes(bytes.begin(), bytes.end()));
}

/// A disk that remembers the manifest.
struct Memory : Files {
  std::map<std::string, Bytes> files;
  void make_directory(const std::string&) override {}
  void write(const std::string& path, std::span<const std::byte> b) override { files[path] = {b.begin(), b.end()}; }
  void fsync(const std::string&) override {}
  void rename(const std::string& from, const std::string& to) override {
    std::map<std::string, Bytes> moved;
    for (auto& [path, bytes] : files)
      moved[path.starts_with(from) ? to + path.substr(from.size()) : path] = std::move(bytes);
    files = std::move(moved);
  }
  Bytes read(const std::string& path) override {
    if (!files.contains(path)) throw FileError{ENOENT, path};
    return files[path];
  }
  std::vector<std::string> list(const std::string&) override { return {}; }
  void remove(const std::string&) override {}
};

void manifest_seeds() {
  Memory disk;
  CheckpointWriter writer(disk, "root", 3);
  (void)writer.step(CheckpointWriter::Prepare{12}, Time::zero());
  CheckpointWriter::Commit commit;
  commit.extra = {{"a", "123456789"}, {"b/c", ""}};
  (void)writer.step(commit, Time::zero());
  const Bytes& manifest = disk.files.at("root/000000012/MANIFEST.json");
  save("manifest", "good", 0, manifest);
  save("manifest", "good-1", 1, manifest);
}

void config_seeds() {
  Config config = load_config("", "defaults");
  const auto save_text = [](const std::string& name, const std::string& text) {
    const auto bytes = std::as_bytes(std::span(text));
    save("config", name, {bytes.begin(), bytes.end()});
  };
  save_text("all", to_toml(config));
  std::string overridden =
      "seed = 3\n[environment]\nenv = \"Hopper-v5\"\n[environment.env_config]\n\"ctrl_cost_weight\" = 0.1\n";
  for (const char* override : {"training.lr=[[0, 1e-3], [1000, 0]]", "stop.episode_return_mean=475"})
    overridden += std::string(1, '\0') + override;
  save_text("overrides", overridden);
  save_text("curriculum",
            "[curriculum]\nschedules = { a = [[0, 1.5], [10, 2]] }\nrandomize = { b = [0, 1] }\n"
            "levels = [{}, { c = 1, d = [1, 2] }]\nadvance_at = 3\n");
  save_text(
      "plugin",
      "algorithm = \"plugin:/a/x.so\"\n[training]\nrate = 0.5\n[plugins]\nalgorithm = '"
      R"({"name": "A", "summary": "", "sampling": ["sync"], "columns": ["logp"], "defaults": "[training]\nlr = 1.0",)"
      R"( "settings": [{"key": "rate", "type": "number", "unit": "", "meaning": "", "low": "0", "high": "inf",)"
      R"( "choices": []}]})"
      "'\n");
  save_text("dotted", "training.lr = 1e-3\nrl_module.fcnet_hiddens = [64, 64]\ntraining.grad_clip = \"off\"\n");
}

void simulator_seeds() {
  simulator::HelloT hello;
  hello.protocol = simulator::kProtocol;
  hello.name = "seed";
  hello.session.assign(16, 7);
  hello.observation = simulator::to_wire(Dict{{{"a", Space::box(-1, 1, {2, 3})}, {"b", MultiDiscrete{{2, 3}}}}});
  hello.action = simulator::to_wire(Tuple{{Space::discrete(3, -1), MultiBinary{4}}});
  hello.options.push_back(std::make_unique<simulator::OptionT>());
  simulator::SteppedT stepped;
  stepped.observations.assign(24, 1);
  stepped.rewards = {1, 2};
  stepped.flags = {0, 2};
  simulator::ObservationT seen;
  seen.episode = 3;
  seen.observation.assign(8, 1);
  const auto put = [](const char* name, auto body) {
    const std::vector<std::byte> frame = simulator::frame_of(std::move(body));
    save("simulator", name, {frame.begin() + sizeof(uint32_t), frame.end()});
  };
  put("hello", std::move(hello));
  put("stepped", std::move(stepped));
  put("observation", std::move(seen));
}

void task_seeds() {
  for (const char* name : {"arm", "hopper", "half-cheetah", "quadruped"}) {
    std::ifstream file(std::filesystem::path(__FILE__).parent_path() / "../../configs/tasks" /
                       (std::string(name) + ".toml"));
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = std::as_bytes(std::span(text));
    save("task", name, {bytes.begin(), bytes.end()});
  }
  const std::string text =
      "not all(-1 < clip(qpos[1:-1], -dt, 2 * [time, act, 3] ^ 2)) or before(norm(qpos:'a-b')) >= where(pi, 1, inf)";
  const auto bytes = std::as_bytes(std::span(text));
  save("task", "expression", {bytes.begin(), bytes.end()});
}

}  // namespace
}  // namespace myriad

int main(int count, char** arguments) {
  using namespace myriad;
  if (count != 2) return 2;
  root = arguments[1];
  message_seeds();
  fragment_seeds();
  state_seeds();
  module_seeds();
  manifest_seeds();
  config_seeds();
  task_seeds();
  simulator_seeds();
  return 0;
}
