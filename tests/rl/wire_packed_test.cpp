#include "rl/wire/packed.hpp"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <set>
#include <thread>

#include "rl/check.hpp"
#include "rl/random.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/parcel.hpp"

namespace myriad {
namespace {

SharedBytes pattern(size_t size, size_t first = 1) {
  std::vector<std::byte> out(size);
  for (size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>((first + i) * 31 >> 3);
  return SharedBytes::of(std::move(out));
}

std::vector<std::byte> packed(const Frames& frames) {
  std::vector<std::byte> out;
  pack(frames, out);
  return out;
}

bool same(const Frames& a, const Frames& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (!std::equal(a[i].view.begin(), a[i].view.end(), b[i].view.begin(), b[i].view.end())) return false;
  return true;
}

void set_word(std::vector<std::byte>& bytes, size_t index, uint32_t word) {
  std::memcpy(bytes.data() + 4 * index, &word, 4);
}

struct Pair {
  int ends[2];
  Pair() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0); }
  ~Pair() {
    close_writer();
    ::close(ends[0]);
  }
  void write(std::span<const std::byte> bytes) const {
    REQUIRE(::send(ends[1], bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()));
  }
  void close_writer() {
    if (ends[1] >= 0) ::close(std::exchange(ends[1], -1));
  }
};

using Messages = std::vector<std::vector<std::byte>>;
constexpr size_t kLimit = size_t{16} << 20;

/// The messages a reader gets, each as bytes.
struct Reads {
  PackedReader reader{kLimit};
  Messages messages;
  PackedReader::Outcome from(int fd) {
    return reader.read(fd, [&](std::span<const std::byte> m) { messages.emplace_back(m.begin(), m.end()); });
  }
};

// --- parcels ---

Message numbered(uint64_t number, size_t bytes = 100) {
  wire::RunnerStateT state;
  state.seq = number;
  Message message = make_message(std::move(state), {pattern(bytes, number)});
  message.run = 7;
  return message;
}

/// The numbers of what a receiver took.
struct Taken {
  ParcelReceiver receiver;
  std::vector<uint64_t> numbers;
  /// What the network brought: the parcel's frames.
  bool take(const Frames& frames) {
    auto parcel = decode(frames);
    if (std::holds_alternative<Malformed>(parcel)) return false;
    if (std::get<Message>(parcel).as<wire::ParcelT>() == nullptr) return false;
    for (const Frames& inner : receiver.accept(std::get<Message>(parcel))) {
      const auto message = decode(inner);
      REQUIRE(std::holds_alternative<Message>(message));
      const auto& state = *std::get<Message>(message).as<wire::RunnerStateT>();
      REQUIRE(same({std::get<Message>(message).payloads[0]}, {pattern(100, state.seq)}));
      numbers.push_back(state.seq);
    }
    return true;
  }
};

std::vector<Message> flushed(ParcelSender& sender, Time now) {
  std::vector<Message> parcels;
  sender.flush(now, parcels);
  return parcels;
}

}  // namespace

TEST_SUITE("rl/wire/packed") {
  TEST_CASE("pack, unpack: frames come back as they were, aligned to 8 bytes, uncopied") {
    for (const size_t size : {0, 1, 7, 8, 9, 4096}) {
      const Frames frames{pattern(13), pattern(size), pattern(0), pattern(size + 3)};
      const SharedBytes whole = SharedBytes::of(packed(frames));
      CHECK(whole.view.size() % 8 == 0);
      CHECK(packed_size(whole.view, kLimit) == whole.view.size());
      const auto back = unpack(whole);
      REQUIRE(back);
      CHECK(same(*back, frames));
      for (const SharedBytes& frame : *back) {
        CHECK((frame.view.data() - whole.view.data()) % 8 == 0);
        CHECK(frame.owner == whole.owner);
      }
    }
    CHECK(unpack(SharedBytes::of(packed({})))->empty());
    CHECK(same(*unpack(SharedBytes::of(packed(Frames(kMaxFrames, pattern(3))))), Frames(kMaxFrames, pattern(3))));
  }

  TEST_CASE("unpack: every shorter message is none, and none is read past its end") {
    const std::vector<std::byte> whole = packed({pattern(13), pattern(40), pattern(5)});
    for (size_t size = 0; size < whole.size(); ++size) {
      const std::vector<std::byte> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      CHECK(!unpack(SharedBytes::of(part)));
      const auto known = packed_size(part, kLimit);
      REQUIRE(known);
      CHECK(*known == (size < 20 ? 0 : whole.size()));  // magic, count, three lengths
    }
    std::vector<std::byte> longer = whole;
    longer.resize(whole.size() + 8);
    CHECK(!unpack(SharedBytes::of(longer)));
  }

  TEST_CASE("packed_size: limits are checked as soon as they are known") {
    std::vector<std::byte> whole = packed({pattern(100), pattern(100)});
    CHECK(packed_size(whole, whole.size()) == whole.size());
    CHECK(!packed_size(whole, whole.size() - 1));
    CHECK(!packed_size(std::span(whole).first(16), whole.size() - 1));
    auto broken = whole;
    set_word(broken, 0, 0x12345678);
    CHECK(!packed_size(broken, kLimit));
    CHECK(!packed_size(std::span(broken).first(8), kLimit));
    broken = whole;
    set_word(broken, 1, static_cast<uint32_t>(kMaxFrames) + 1);
    CHECK(!packed_size(std::span(broken).first(8), kLimit));
    set_word(broken, 1, UINT32_MAX);
    CHECK(!packed_size(std::span(broken).first(8), kLimit));
    broken = whole;
    set_word(broken, 3, UINT32_MAX);
    CHECK(!packed_size(broken, SIZE_MAX));
    set_word(broken, 3, static_cast<uint32_t>(kMaxPayloadBytes));
    CHECK(packed_size(broken, SIZE_MAX) == 16 + 104 + kMaxPayloadBytes);
    CHECK(!unpack(SharedBytes::of(broken)));
    std::vector<std::byte> out;
    CHECK_THROWS_AS(pack(Frames(kMaxFrames + 1, pattern(1)), out), Error);
    CHECK_THROWS_AS(pack({{nullptr, {static_cast<const std::byte*>(nullptr), kMaxPayloadBytes + 1}}}, out), Error);
    CHECK(out.empty());
  }

  TEST_CASE("unpack_all: exactly so many whole messages") {
    std::vector<std::byte> all;
    const std::vector<Frames> messages{{pattern(1)}, {pattern(20), pattern(0)}, {}};
    for (const Frames& m : messages) pack(m, all);
    const auto back = unpack_all(SharedBytes::of(all), 3);
    REQUIRE(back);
    for (size_t i = 0; i < 3; ++i) CHECK(same((*back)[i], messages[i]));
    CHECK(!unpack_all(SharedBytes::of(all), 2));
    CHECK(!unpack_all(SharedBytes::of(all), 4));
    for (size_t size = 0; size < all.size(); ++size)
      CHECK(!unpack_all(SharedBytes::of({all.begin(), all.begin() + static_cast<std::ptrdiff_t>(size)}), 3));
    CHECK(unpack_all(SharedBytes::of({}), 0));
  }

  TEST_CASE("a flipped bit anywhere in a packed message is refused by what unpacks or decodes it") {
    const std::vector<std::byte> whole = packed(encode(numbered(3)));
    size_t padding = 0;
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
      auto flipped = whole;
      flipped[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      const auto frames = unpack(SharedBytes::of(flipped));
      if (!frames) continue;
      const auto message = decode(*frames);
      if (const auto* m = std::get_if<Message>(&message)) {
        ++padding;  // nobody reads those bytes
        CHECK(m->as<wire::RunnerStateT>()->seq == 3);
        CHECK(same({m->payloads[0]}, {pattern(100, 3)}));
      }
    }
    CHECK(padding <= 3 * 7 * 8);
  }

  TEST_CASE("PackedReader: messages of every size, several at once, in order") {
    Pair pair;
    Reads reads;
    std::vector<std::byte> all;
    Messages want;
    for (size_t size = 0; size < 200; ++size) {
      want.push_back(packed({pattern(size * 3), pattern(size)}));
      all.insert(all.end(), want.back().begin(), want.back().end());
    }
    pair.write(all);
    CHECK(reads.from(pair.ends[0]) == PackedReader::Outcome::blocked);
    CHECK(reads.messages == want);
    CHECK(reads.from(pair.ends[0]) == PackedReader::Outcome::blocked);
    pair.close_writer();
    CHECK(reads.from(pair.ends[0]) == PackedReader::Outcome::closed);
  }

  TEST_CASE("PackedReader: one byte at a time") {
    Pair pair;
    Reads reads;
    const auto a = packed({pattern(50), pattern(3)}), b = packed({}), c = packed({pattern(9)});
    for (const auto& message : {a, b, c})
      for (const std::byte byte : message) {
        pair.write({&byte, 1});
        CHECK(reads.from(pair.ends[0]) == PackedReader::Outcome::blocked);
      }
    CHECK(reads.messages == Messages{a, b, c});
  }

  TEST_CASE("PackedReader: messages larger than its scratch, between small ones, however they are cut") {
    for (const size_t piece : {size_t{1000}, size_t{131072}, size_t{262144}, size_t{9999991}}) {
      Pair pair;
      Reads reads;
      Messages want;
      std::vector<std::byte> all;
      for (const size_t size : {10, 3'000'000, 20, 262'144 - 16, 131'072, 262'145, 700'001, 5}) {
        want.push_back(packed({pattern(size, size)}));
        all.insert(all.end(), want.back().begin(), want.back().end());
      }
      std::jthread writer([&] {
        for (size_t at = 0; at < all.size(); at += piece) {
          auto rest = std::span(all).subspan(at, std::min(piece, all.size() - at));
          while (!rest.empty()) {
            const ssize_t n = ::send(pair.ends[1], rest.data(), rest.size(), MSG_NOSIGNAL);
            if (n < 0) return;
            rest = rest.subspan(static_cast<size_t>(n));
          }
        }
        ::shutdown(pair.ends[1], SHUT_WR);
      });
      PackedReader::Outcome outcome;
      while ((outcome = reads.from(pair.ends[0])) == PackedReader::Outcome::blocked) std::this_thread::yield();
      CHECK(outcome == PackedReader::Outcome::closed);
      CHECK(reads.messages == want);
    }
  }

  TEST_CASE("PackedReader: what is no message is malformed, after the messages before it") {
    for (const bool together : {true, false}) {
      Pair pair;
      Reads reads;
      const auto good = packed({pattern(50)});
      auto bad = good;
      set_word(bad, 0, 1);
      std::vector<std::byte> all = good;
      if (!together) {
        pair.write(good);
        CHECK(reads.from(pair.ends[0]) == PackedReader::Outcome::blocked);
        all.clear();
      }
      all.insert(all.end(), bad.begin(), bad.end());
      pair.write(all);
      CHECK(reads.from(pair.ends[0]) == PackedReader::Outcome::malformed);
      CHECK(reads.messages == Messages{good});
    }
  }

  TEST_CASE("PackedReader: a message over the limit is malformed at its head, before room is made for it") {
    Pair pair;
    PackedReader reader(1000);
    auto head = packed({pattern(1)});
    set_word(head, 2, 1001);
    pair.write(head);
    CHECK(reader.read(pair.ends[0], [](std::span<const std::byte>) { FAIL("a message"); }) ==
          PackedReader::Outcome::malformed);
  }

  TEST_CASE("send_packed: what it writes is what pack makes; false when the peer is gone") {
    Pair pair;
    Reads reads;
    const Frames frames{pattern(13), pattern(0), pattern(400'000), pattern(8)};
    std::jthread writer([&] { CHECK(send_packed(pair.ends[1], frames)); });
    while (reads.messages.empty()) CHECK(reads.from(pair.ends[0]) == PackedReader::Outcome::blocked);
    CHECK(reads.messages == Messages{packed(frames)});
    writer.join();
    ::shutdown(pair.ends[0], SHUT_RDWR);
    CHECK(!send_packed(pair.ends[1], frames));
  }
}

TEST_SUITE("rl/wire/parcel") {
  TEST_CASE("ParcelSender: what was added goes out once, in parcels of about 1 MiB, and again after 250 ms") {
    ParcelSender sender(3, 4);
    CHECK(sender.idle());
    CHECK(flushed(sender, Time{}).empty());
    for (uint64_t i = 0; i < 30; ++i) sender.add(numbered(i, 100'000));
    CHECK(!sender.idle());
    auto parcels = flushed(sender, Time{});
    REQUIRE(parcels.size() == 3);
    uint64_t next = 0;
    for (const Message& parcel : parcels) {
      const auto& header = *parcel.as<wire::ParcelT>();
      CHECK(header.agent == 3);
      CHECK(header.incarnation == 4);
      CHECK(header.first == next);
      next += header.count;
      CHECK(parcel.payloads.at(0).view.size() <= ParcelSender::kParcelBytes);
    }
    CHECK(next == 30);
    CHECK(sender.sent() == 30);
    CHECK(flushed(sender, ParcelSender::kRetry - Time(1)).empty());
    sender.acknowledge(parcels[1].as<wire::ParcelT>()->first);
    parcels = flushed(sender, ParcelSender::kRetry);
    CHECK(parcels.size() == 2);
    CHECK(parcels[0].as<wire::ParcelT>()->first > 0);
    sender.acknowledge(parcels[1].as<wire::ParcelT>()->first + 1);  // within a parcel: it stays
    CHECK(!sender.idle());
    sender.acknowledge(30);
    CHECK(sender.idle());
    sender.acknowledge(5);  // an old word
    CHECK(sender.sent() == 30);
    CHECK(flushed(sender, std::chrono::seconds(9)).empty());
  }

  TEST_CASE("ParcelSender: what was received is kept until it is released, and begins anew for another receiver") {
    ParcelSender sender(0, 0);
    for (uint64_t i = 0; i < 6; ++i) {
      sender.add(numbered(i));
      if (i % 2 == 1) (void)flushed(sender, Time{});  // three parcels of two
    }
    sender.acknowledge(6);
    CHECK(sender.idle());
    sender.release(2);
    CHECK(sender.idle());  // to release is not to forget what was received
    sender.add(numbered(6));
    sender.restart();
    CHECK(!sender.idle());
    auto parcels = flushed(sender, Time(1));  // at once: no kRetry is waited for
    Taken next{ParcelReceiver(2), {}};
    for (const Message& parcel : parcels) next.take(encode(parcel));
    CHECK(next.numbers == std::vector<uint64_t>{2, 3, 4, 5, 6});
    CHECK(next.receiver.gaps() == 0);
    CHECK(sender.resent() == 4);  // message 6 was never sent before
    CHECK(flushed(sender, ParcelSender::kRetry).empty());
    CHECK(flushed(sender, Time(1) + ParcelSender::kRetry).size() == 3);  // and again, as nobody has said it has them
    sender.release(1);                                                   // an old word
    sender.restart();
    CHECK(flushed(sender, ParcelSender::kRetry).at(0).as<wire::ParcelT>()->first == 2);
  }

  TEST_CASE("ParcelSender: released inside a parcel, the parcel comes whole and the receiver begins inside") {
    ParcelSender sender(0, 0);
    for (uint64_t i = 0; i < 3; ++i) sender.add(numbered(i));
    (void)flushed(sender, Time{});
    sender.release(1);
    CHECK(!sender.idle());  // 1 and 2 were not received
    sender.restart();
    const auto parcels = flushed(sender, Time{});
    REQUIRE(parcels.size() == 1);
    CHECK(parcels[0].as<wire::ParcelT>()->first == 0);
    CHECK(parcels[0].as<wire::ParcelT>()->count == 3);
    Taken next{ParcelReceiver(1), {}};
    CHECK(next.take(encode(parcels[0])));
    CHECK(next.numbers == std::vector<uint64_t>{1, 2});
    sender.acknowledge(next.receiver.received());
    CHECK(sender.idle());
    sender.release(3);
    sender.restart();  // nothing is left to begin with
    CHECK(sender.idle());
    CHECK(flushed(sender, std::chrono::seconds(9)).empty());
  }

  TEST_CASE("ParcelSender: what the released messages followed is received, whatever the receiver said") {
    ParcelSender sender(0, 0);
    for (uint64_t i = 0; i < 3; ++i) sender.add(numbered(i));
    (void)flushed(sender, Time{});
    sender.release(3);
    CHECK(sender.idle());
    CHECK(flushed(sender, ParcelSender::kRetry).empty());
    sender.add(numbered(3));
    sender.restart();  // with a message that was never in a parcel
    CHECK(!sender.idle());
    CHECK(flushed(sender, Time{}).at(0).as<wire::ParcelT>()->first == 3);
  }

  TEST_CASE("ParcelReceiver: with a first message it takes nothing before that one, and nothing after a gap") {
    ParcelSender sender(0, 0);
    std::vector<Message> parcels;
    for (uint64_t i = 0; i < 6; ++i) {
      sender.add(numbered(i));
      if (i % 2 == 1) sender.flush(Time{}, parcels);
    }
    Taken taken{ParcelReceiver(3), {}};
    CHECK(taken.receiver.received() == 3);
    taken.take(encode(parcels[0]));
    CHECK(taken.numbers.empty());
    CHECK(taken.receiver.gaps() == 0);  // old, not early
    taken.take(encode(parcels[2]));
    CHECK(taken.numbers.empty());
    CHECK(taken.receiver.gaps() == 1);
    taken.take(encode(parcels[1]));
    taken.take(encode(parcels[2]));
    CHECK(taken.numbers == std::vector<uint64_t>{3, 4, 5});
  }

  TEST_CASE("ParcelSender: a message larger than a parcel travels alone") {
    ParcelSender sender(0, 0);
    sender.add(numbered(0));
    sender.add(numbered(1, 3 << 20));
    sender.add(numbered(2));
    const auto parcels = flushed(sender, Time{});
    REQUIRE(parcels.size() == 3);
    for (const Message& parcel : parcels) CHECK(parcel.as<wire::ParcelT>()->count == 1);
  }

  TEST_CASE("ParcelReceiver: repeats, overlaps and gaps") {
    ParcelSender sender(0, 0);
    std::vector<Message> parcels;
    for (uint64_t i = 0; i < 6; ++i) {
      sender.add(numbered(i));
      if (i % 2 == 1) sender.flush(Time{}, parcels);
    }
    REQUIRE(parcels.size() == 3);
    Taken taken;
    CHECK(taken.take(encode(parcels[1])));
    CHECK(taken.numbers.empty());
    CHECK(taken.receiver.gaps() == 1);
    taken.take(encode(parcels[0]));
    taken.take(encode(parcels[0]));
    CHECK(taken.receiver.received() == 2);
    // The same messages, cut anew: 1 to 3.
    ParcelSender other(0, 0);
    other.add(numbered(0));
    (void)flushed(other, Time{});
    for (uint64_t i = 1; i < 4; ++i) other.add(numbered(i));
    other.acknowledge(1);
    taken.take(encode(flushed(other, Time{}).at(0)));
    taken.take(encode(parcels[2]));
    CHECK(taken.numbers == std::vector<uint64_t>{0, 1, 2, 3, 4, 5});
    CHECK(taken.receiver.malformed() == 0);
  }

  TEST_CASE("ParcelReceiver: a parcel that is not what it says is taken in no part") {
    ParcelSender sender(0, 0);
    sender.add(numbered(0));
    sender.add(numbered(1));
    const Message good = flushed(sender, Time{}).at(0);
    Taken taken;
    for (const auto& [first, count] :
         {std::pair<uint64_t, uint32_t>{0, 3}, {0, 1}, {0, UINT32_MAX}, {UINT64_MAX, 2}, {UINT64_MAX - 1, 2}, {0, 0}}) {
      Message bad = good;
      bad.body.AsParcel()->first = first;
      bad.body.AsParcel()->count = count;
      CHECK(taken.receiver.accept(bad).empty());
    }
    Message none = good;
    none.payloads.clear();
    CHECK(taken.receiver.accept(none).empty());
    CHECK(taken.receiver.received() == 0);
    CHECK(taken.receiver.malformed() == 4);
    CHECK(taken.take(encode(good)));
    CHECK(taken.numbers.size() == 2);
  }

  TEST_CASE("parcels: every bit flip on the way is refused, and the next try brings everything") {
    ParcelSender sender(0, 0);
    for (uint64_t i = 0; i < 3; ++i) sender.add(numbered(i));
    const Frames frames = encode(flushed(sender, Time{}).at(0));
    Taken taken;
    for (size_t f = 0; f < frames.size(); ++f)
      for (size_t bit = 0; bit < frames[f].view.size() * 8; ++bit) {
        std::vector<std::byte> flipped(frames[f].view.begin(), frames[f].view.end());
        flipped[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
        Frames broken = frames;
        broken[f] = SharedBytes::of(std::move(flipped));
        CHECK(!taken.take(broken));
      }
    CHECK(taken.receiver.received() == 0);
    CHECK(taken.take(encode(flushed(sender, ParcelSender::kRetry).at(0))));
    CHECK(taken.numbers == std::vector<uint64_t>{0, 1, 2});
  }

  TEST_CASE("parcels: over a network that loses, doubles, reorders and breaks, each message comes once and in order") {
    for (uint64_t seed = 0; seed < 100; ++seed) {
      RandomStream random(seed, StreamPurpose::simulation, 2);
      ParcelSender sender(1, 2);
      Taken taken;
      std::vector<Frames> parcels;  // on their way
      std::vector<uint64_t> acknowledgements;
      constexpr uint64_t kMessages = 200;
      Time now{};
      for (int round = 0; taken.numbers.size() < kMessages || !sender.idle(); ++round) {
        REQUIRE(round < 20'000);
        now += std::chrono::milliseconds(1 + random.below(60));
        for (uint64_t n = random.below(4); n > 0 && sender.sent() < kMessages; --n) sender.add(numbered(sender.sent()));
        for (const Message& parcel : flushed(sender, now)) {
          for (uint64_t copies = random.below(3); copies > 0; --copies) {
            Frames frames = encode(parcel);
            if (random.uniform() < 0.1) {
              SharedBytes& frame = frames[random.below(frames.size())];
              std::vector<std::byte> broken(frame.view.begin(), frame.view.end());
              if (!broken.empty()) broken[random.below(broken.size())] ^= std::byte{4};
              frame = SharedBytes::of(std::move(broken));
            }
            parcels.push_back(std::move(frames));
          }
        }
        while (!parcels.empty() && random.uniform() < 0.8) {
          const size_t i = random.below(parcels.size());
          taken.take(parcels[i]);
          parcels.erase(parcels.begin() + static_cast<std::ptrdiff_t>(i));
          if (random.uniform() < 0.7) acknowledgements.push_back(taken.receiver.received());
        }
        while (!acknowledgements.empty() && random.uniform() < 0.7) {
          const size_t i = random.below(acknowledgements.size());
          sender.acknowledge(acknowledgements[i]);
          acknowledgements.erase(acknowledgements.begin() + static_cast<std::ptrdiff_t>(i));
        }
        if (sender.sent() == kMessages && taken.numbers.size() == kMessages) sender.acknowledge(kMessages);
      }
      for (uint64_t i = 0; i < kMessages; ++i) REQUIRE(taken.numbers[i] == i);
      CHECK(taken.numbers.size() == kMessages);
      CHECK(taken.receiver.malformed() == 0);
    }
  }
}

}  // namespace myriad
