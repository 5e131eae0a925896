#include "rl/wire/messages.hpp"

#include <doctest/doctest.h>

#include <cstring>

#include "rl/check.hpp"
#include "rl/hash.hpp"
#include "rl/random.hpp"

namespace myriad {
namespace {

SharedBytes bytes(size_t size, int first = 1) {
  std::vector<std::byte> out(size);
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>(first + static_cast<int>(i));
  return SharedBytes::of(std::move(out));
}

template <class T>
Message stamped(T body, std::vector<SharedBytes> payloads = {}) {
  Message message = make_message(std::move(body), std::move(payloads));
  message.run = 0x1122334455667788;
  message.epoch = 9;
  return message;
}

Message decoded(const Frames& frames) {
  auto result = decode(frames);
  REQUIRE(std::holds_alternative<Message>(result));
  return std::get<Message>(std::move(result));
}

Malformed refused(const Frames& frames) {
  auto result = decode(frames);
  REQUIRE(std::holds_alternative<Malformed>(result));
  return std::get<Malformed>(result);
}

wire::GroupStateT group_state() {
  wire::GroupStateT state;
  state.training_iteration = 1, state.num_env_steps_sampled_lifetime = uint64_t{1} << 40;
  state.marks = {wire::AgentMark(1, 2, uint64_t{1} << 41), wire::AgentMark(3, 4, 5)};
  return state;
}

/// Of the learner group.
std::vector<Message> one_of_each_of_the_group() {
  std::vector<Message> all;
  wire::AgentMoveT move;
  move.agent = 1, move.incarnation = 2, move.learner_endpoint = "ipc:///x", move.weights_endpoint = "ipc:///y";
  all.push_back(stamped(move));
  wire::LearnerStatusT status;
  status.shard = 1, status.incarnation = 2, status.stage = wire::LearnerStage::joining, status.version = 3;
  status.prepared = true, status.state = std::make_unique<wire::GroupStateT>(group_state());
  status.parts = {1, 2}, status.num_parts = 3, status.operations = 4, status.inside = true, status.busy_s = 0.5f;
  status.broken = "learner 2 does not answer";
  all.push_back(stamped(std::move(status)));
  wire::GroupOrderT order;
  order.form = true, order.rank = 1, order.size = 2, order.version = 3, order.root = 1, order.holders = {1, 0};
  order.everybody = true, order.state = std::make_unique<wire::GroupStateT>(group_state());
  order.first_slot = 4, order.num_slots = 5, order.first_place = 6, order.num_places = 7;
  all.push_back(stamped(std::move(order)));
  wire::RendezvousT rendezvous;
  rendezvous.entries.push_back(std::make_unique<wire::RendezvousEntryT>());
  rendezvous.entries[0]->key = "0/1", rendezvous.entries[0]->value = {0, 255, 7};
  all.push_back(stamped(std::move(rendezvous)));
  wire::ScaleRequestT scale;
  scale.learners = 3;
  all.push_back(stamped(scale));
  wire::ScaleReplyT reply;
  reply.text = "a run has at least one learner", reply.error = true;
  all.push_back(stamped(reply));
  return all;
}

/// One of each table, every field set to something.
std::vector<Message> one_of_each() {
  std::vector<Message> all;
  wire::JoinT join;
  join.agent = 1, join.incarnation = 2, join.spec_hash = 3, join.fragment_hash = UINT64_MAX, join.weights_version = -1;
  join.sent = 4, join.released = 5, join.based = true, join.fragments = 6, join.granted_fragments = 7;
  join.slots = {wire::SlotBase(1, 2, uint64_t{1} << 40, true), wire::SlotBase(3, 4, 5, false)};
  all.push_back(stamped(join));
  wire::FragmentHeaderT header;
  header.key = std::make_unique<wire::FragmentKey>(4, 5, uint64_t{1} << 40);
  header.weights_version = 6, header.steps = 7, header.environments = 8, header.final_rows = 9;
  header.episodes = {wire::Episode(1.5, 10, 11, 0), wire::Episode(-2.0, 12, 13, 2)};
  header.sampling_ns = 14, header.waiting_ns = 15;
  all.push_back(stamped(std::move(header), {bytes(100)}));
  wire::RunnerStateT state;
  state.slot = 1, state.incarnation = 2, state.seq = 3, state.checkpoint = 4;
  all.push_back(stamped(std::move(state), {bytes(0)}));
  wire::WeightsHeaderT weights;
  weights.version = 1, weights.spec_hash = 2;
  all.push_back(stamped(std::move(weights), {bytes(8), bytes(16)}));
  wire::GrantT grant;
  grant.agent = 6, grant.incarnation = 1, grant.received = 2, grant.granted_bytes = 3, grant.weights_version = 4;
  grant.released = 1, grant.based = true;
  grant.want_state = 5, grant.slots = {wire::SlotGrant(1, 2, 3), wire::SlotGrant(4, 5, 6)};
  all.push_back(stamped(grant));
  wire::RefusedT no;
  no.reason = "slot 9 is not one of 4";
  all.push_back(stamped(no));
  wire::PermitT permit;
  permit.granted = 1, permit.want_state = 2;
  all.push_back(stamped(permit));
  wire::AgentHelloT hello;
  hello.agent = UINT32_MAX, hello.incarnation = 2, hello.pid = 3, hello.protocol = 4, hello.host = "node-1";
  all.push_back(stamped(hello));
  wire::AgentWelcomeT agent;
  agent.agent = 1, agent.incarnation = 2, agent.config = "[training]\nlr = 1e-3\n", agent.first_slot = 3;
  agent.num_slots = 4, agent.learner_endpoint = "ipc:///x", agent.weights_endpoint = "ipc:///y";
  all.push_back(stamped(std::move(agent), {bytes(3)}));
  wire::RunnerWelcomeT welcome;
  welcome.slot = 1, welcome.incarnation = 2;
  all.push_back(stamped(std::move(welcome), {bytes(3)}));
  wire::AgentStatusT status;
  status.agent = 1, status.incarnation = 2, status.running = 3, status.quarantined = 4, status.waiting = 5;
  status.restarts = 6, status.fragments = 7, status.weights_version = -1, status.oldest_version = 8;
  status.weights_latency_p50_ms = 0.5f, status.rss_bytes = 9, status.weights_endpoint = "ipc:///y";
  status.leaving = true, status.last_cause = "SIGKILL";
  all.push_back(stamped(status));
  wire::EventT event;
  event.kind = "runner-down", event.text = "runner 3 ended";
  all.push_back(stamped(event));
  wire::AgentStateT agent_state;
  agent_state.agent = 1, agent_state.incarnation = 2, agent_state.first_slot = 3, agent_state.num_slots = 4;
  agent_state.up = true, agent_state.user = "agent-1";
  all.push_back(stamped(agent_state));
  wire::LearnerHelloT learner;
  learner.shard = 1, learner.incarnation = 4, learner.pid = 2, learner.protocol = 3, learner.data_endpoint = "ipc:///z";
  all.push_back(stamped(learner));
  wire::LearnerWelcomeT lw;
  lw.shard = 1, lw.config = "c", lw.data_endpoint = "e", lw.checkpoint = "d";
  all.push_back(stamped(lw));
  wire::SlotStateT slot;
  slot.slot = 1, slot.incarnation = 2, slot.up = true;
  all.push_back(stamped(slot));
  wire::IterationReportT report;
  report.training_iteration = 1, report.num_env_steps_sampled_lifetime = 2, report.weights_version = 3;
  report.metrics.push_back(std::make_unique<wire::KeyValueT>());
  report.metrics[0]->key = "loss", report.metrics[0]->value = 0.25;
  report.episodes = {wire::Episode(3.5, 1, 2, 0)};
  all.push_back(stamped(std::move(report)));
  wire::CommandT command;
  command.kind = wire::CommandKind::checkpoint, command.sequence = 1, command.until = 2, command.directory = "d";
  all.push_back(stamped(command));
  wire::CheckpointDoneT done;
  done.sequence = 1, done.training_iteration = 2, done.num_env_steps_sampled_lifetime = 3, done.error = "EIO";
  done.files.push_back(std::make_unique<wire::FileEntryT>());
  done.files[0]->name = "a", done.files[0]->bytes = 4, done.files[0]->crc32c = 5;
  all.push_back(stamped(std::move(done)));
  wire::StopT stop;
  stop.reason = "done";
  all.push_back(stamped(stop));
  wire::ProcessErrorT error;
  error.slot = 6, error.code = "internal", error.message = "m", error.exit = 5;
  all.push_back(stamped(error));
  wire::ParcelT parcel;
  parcel.agent = 1, parcel.incarnation = 2, parcel.first = 3, parcel.count = 4;
  all.push_back(stamped(std::move(parcel), {bytes(24)}));
  for (Message& message : one_of_each_of_the_group()) all.push_back(std::move(message));
  return all;
}

/// The envelope replaced by `envelope`, with a checksum that holds: what a peer with other ideas would send.
Frames with_envelope(Frames frames, std::vector<std::byte> envelope) {
  const uint32_t sum = crc32c(envelope);
  const auto* p = reinterpret_cast<const std::byte*>(&sum);
  envelope.insert(envelope.end(), p, p + sizeof sum);
  frames[0] = SharedBytes::of(std::move(envelope));
  return frames;
}

std::vector<std::byte> envelope_of(const Frames& frames) { return {frames[0].view.begin(), frames[0].view.end() - 4}; }

}  // namespace

TEST_SUITE("rl/wire/messages") {
  TEST_CASE("encode, decode: every table comes back as it was, payloads uncopied") {
    const auto all = one_of_each();
    CHECK(all.size() == static_cast<size_t>(wire::Body::MAX));
    for (const Message& message : all) {
      const Frames frames = encode(message);
      const Message back = decoded(frames);
      CAPTURE(wire::EnumNameBody(message.body.type));
      CHECK(back.body.type == message.body.type);
      CHECK(back.run == message.run);
      CHECK(back.epoch == message.epoch);
      REQUIRE(back.payloads.size() == message.payloads.size());
      for (size_t i = 0; i < back.payloads.size(); ++i)
        CHECK(back.payloads[i].view.data() == message.payloads[i].view.data());
      const Frames again = encode(back);  // every field: the same bytes
      CHECK(std::equal(again[0].view.begin(), again[0].view.end(), frames[0].view.begin(), frames[0].view.end()));
    }
  }

  TEST_CASE("decode: fields by hand") {
    const auto all = one_of_each();
    const Message fragment = decoded(encode(all[1]));
    CHECK(id_of(*fragment.as<wire::FragmentHeaderT>()) == FragmentId{4, 5, uint64_t{1} << 40});
    CHECK(fragment.as<wire::FragmentHeaderT>()->episodes.at(1).episode_return() == -2.0);
    CHECK(fragment.as<wire::JoinT>() == nullptr);
    CHECK(decoded(encode(all[0])).as<wire::JoinT>()->weights_version == -1);
    CHECK(decoded(encode(all[0])).as<wire::JoinT>()->slots.at(0).seq() == uint64_t{1} << 40);
    CHECK(!decoded(encode(all[0])).as<wire::JoinT>()->slots.at(1).up());
    const auto it = std::find_if(all.begin(), all.end(), [](const Message& m) { return m.as<wire::LearnerStatusT>(); });
    REQUIRE(it != all.end());
    const Message status = decoded(encode(*it));
    REQUIRE(status.as<wire::LearnerStatusT>()->state != nullptr);
    CHECK(status.as<wire::LearnerStatusT>()->state->marks.at(0).messages() == uint64_t{1} << 41);
    CHECK(decoded(encode(stamped(wire::GroupOrderT{}))).as<wire::GroupOrderT>()->state == nullptr);
  }

  TEST_CASE("decode: a flipped bit anywhere in the envelope is refused by its checksum") {
    for (const Message& message : one_of_each()) {
      const Frames frames = encode(message);
      for (size_t i = 0; i < frames[0].view.size(); ++i)
        for (int b = 0; b < 8; ++b) {
          Frames flipped = frames;
          std::vector<std::byte> changed(frames[0].view.begin(), frames[0].view.end());
          changed[i] ^= static_cast<std::byte>(1 << b);
          flipped[0] = SharedBytes::of(std::move(changed));
          REQUIRE(refused(flipped) == Malformed::envelope_checksum);
        }
    }
  }

  TEST_CASE("decode: payloads that are missing, longer or changed are refused for the right reason") {
    const Frames frames = encode(one_of_each()[3]);
    Frames missing = frames;
    missing.pop_back();
    CHECK(refused(missing) == Malformed::payload_mismatch);
    Frames more = frames;
    more.push_back(bytes(1));
    CHECK(refused(more) == Malformed::payload_mismatch);
    Frames longer = frames;
    longer[1] = bytes(9);
    CHECK(refused(longer) == Malformed::payload_mismatch);
    Frames changed = frames;
    changed[1] = bytes(8, /*first=*/2);
    CHECK(refused(changed) == Malformed::payload_checksum);
    Frames stray = encode(one_of_each()[0]);
    stray.push_back(bytes(1));
    CHECK(refused(stray) == Malformed::payload_mismatch);
  }

  TEST_CASE("decode: no frames, too many and too large ones") {
    CHECK(refused({}) == Malformed::no_frames);
    Frames many = encode(one_of_each()[0]);
    many.resize(kMaxFrames + 1, bytes(1));
    CHECK(refused(many) == Malformed::too_many_frames);
    CHECK(refused({bytes(kMaxEnvelopeBytes + 1)}) == Malformed::too_large);
    for (size_t size = 0; size < 16; ++size) CHECK(refused({bytes(size)}) == Malformed::not_an_envelope);
    CHECK(refused(with_envelope(encode(one_of_each()[0]), std::vector<std::byte>(64))) == Malformed::not_an_envelope);
  }

  TEST_CASE("decode: tables that share one string may not unpack to more than the message") {
    // One string of 1000 bytes named by n tables: n * 1000 bytes as structs, the buffer itself holds about 1100 + 30 n.
    const auto report = [](size_t n) {
      flatbuffers::FlatBufferBuilder builder;
      const auto key = builder.CreateString(std::string(1000, 'k'));
      std::vector<flatbuffers::Offset<wire::KeyValue>> rows;
      for (size_t i = 0; i < n; ++i) rows.push_back(wire::CreateKeyValue(builder, key, 1.0));
      const auto body = wire::CreateIterationReport(builder, 1, 2, 3, builder.CreateVector(rows)).Union();
      wire::FinishEnvelopeBuffer(builder, wire::CreateEnvelope(builder, 1, 1, wire::Body::IterationReport, body));
      const auto* data = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
      return with_envelope(Frames(1), {data, data + builder.GetSize()});
    };
    CHECK(decoded(report(1)).as<wire::IterationReportT>()->metrics.size() == 1);
    CHECK(refused(report(2)) == Malformed::too_large);
  }

  TEST_CASE("decode: a fragment without its key and an envelope without a body are not messages") {
    wire::EnvelopeT envelope;
    const auto pack = [&] {
      flatbuffers::FlatBufferBuilder builder;
      wire::FinishEnvelopeBuffer(builder, wire::Envelope::Pack(builder, &envelope));
      const auto* data = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
      return with_envelope(Frames(1), {data, data + builder.GetSize()});
    };
    CHECK(refused(pack()) == Malformed::not_an_envelope);
    envelope.body.Set(wire::FragmentHeaderT{});
    CHECK(refused(pack()) == Malformed::not_an_envelope);
  }

  TEST_CASE("decode: 20000 mangled, truncated and oversized messages are a Message or Malformed, never a crash") {
    RandomStream random(20, StreamPurpose::simulation, 1);
    const auto all = one_of_each();
    size_t messages = 0;
    for (int i = 0; i < 20000; ++i) {
      Frames frames = encode(all[random.below(all.size())]);
      auto changed = envelope_of(frames);
      switch (random.below(4)) {
        case 0:
          changed.erase(changed.begin() + static_cast<ptrdiff_t>(random.below(changed.size())), changed.end());
          break;
        case 1:
          changed.insert(changed.end(), random.below(1000), std::byte{0});
          break;
        case 2: {  // a run of random bytes
          const size_t start = random.below(changed.size());
          for (size_t j = start; j < std::min(changed.size(), start + 8); ++j)
            changed[j] = static_cast<std::byte>(random.next_u64());
          break;
        }
        default:
          changed[random.below(changed.size())] ^= static_cast<std::byte>(1u << random.below(8));
      }
      // Half with a checksum that holds, so that the verifier is what stands between them and us.
      if (random.below(2) == 0)
        frames = with_envelope(frames, std::move(changed));
      else
        frames[0] = SharedBytes::of(std::move(changed));
      const auto result = decode(frames);
      if (const auto* message = std::get_if<Message>(&result)) {
        ++messages;
        CHECK(message->body.value != nullptr);
        (void)weights_from(*message);
      }
    }
    CHECK(messages > 100);
  }

  TEST_CASE("encode: a body without payloads refuses to carry some; a huge header is an Error") {
    CHECK_THROWS_AS(encode(stamped(wire::JoinT{}, {bytes(1)})), Error);
    wire::RefusedT huge;
    huge.reason.assign(kMaxEnvelopeBytes, 'x');
    CHECK_THROWS_AS(encode(stamped(huge)), Error);
  }

  TEST_CASE("weights_message, weights_from: the same weights; sizes that make no sense are nothing") {
    const auto weights = std::make_shared<const Weights>(Weights{7, 8, {1.5f, -2.0f}, {0.25}, {1, 9.81, 9.81}});
    const auto back = weights_from(decoded(encode(weights_message(weights))));
    REQUIRE(back.has_value());
    CHECK(back->version == 7);
    CHECK(back->values == weights->values);
    CHECK(back->filter == weights->filter);
    CHECK(back->published == weights->published);
    CHECK(!weights_from(stamped(wire::WeightsHeaderT{}, {bytes(3), bytes(8)})).has_value());
    CHECK(!weights_from(stamped(wire::WeightsHeaderT{}, {bytes(4), bytes(4)})).has_value());  // half a double
    CHECK(!weights_from(stamped(wire::WeightsHeaderT{}, {bytes(4)})).has_value());
    CHECK(!weights_from(stamped(wire::JoinT{})).has_value());
  }

  TEST_CASE("fragment_message: header and payload are the fragment's own buffer") {
    auto layout = std::make_shared<FragmentLayout>(2, 3);
    layout->add("rewards", Rows::step, DType::f32, {});
    auto fragment = std::make_shared<Fragment>(layout);
    fragment->id = {1, 2, 3};
    fragment->weights_version = 4;
    fragment->episodes = {{9.0, 5, 6}};
    const Message message = decoded(encode(fragment_message(fragment, 10, 11)));
    CHECK(message.payloads.at(0).view.data() == fragment->used().data());
    CHECK(message.as<wire::FragmentHeaderT>()->steps == 2);
    CHECK(message.as<wire::FragmentHeaderT>()->environments == 3);
    CHECK(message.as<wire::FragmentHeaderT>()->episodes.at(0).env_index() == 6);
  }

  TEST_CASE("name_of: every reason has a name") {
    for (size_t i = 0; i < static_cast<size_t>(Malformed::count); ++i) CHECK(name_of(static_cast<Malformed>(i)) != "?");
  }
}

}  // namespace myriad
