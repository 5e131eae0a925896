#include "learners/group/shared_collective.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>
#include <random>
#include <utility>

#include "learners/group/counted_collective.hpp"
#include "rl/machine.hpp"
#include "rl/shared_memory.hpp"

namespace myriad {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kSlotBytes = size_t{256} << 10;  // what is summed at once; more goes in pieces
constexpr size_t kSumByAll = 32'768;              // values of all shards together: cheaper than a second barrier
constexpr int kSpins = 2'000;                     // some 50 us, a few times what waking a process costs
constexpr std::chrono::milliseconds kSlice(100);

/// What the memory begins with. Zeroed memory is a valid one.
struct Head {
  alignas(kLine) uint64_t mark;  ///< random: this memory and no other
  alignas(kLine) std::atomic<uint32_t> arrived;
  alignas(kLine) std::atomic<uint32_t> phase;  ///< barriers passed; a futex
  std::atomic<uint32_t> sleeping, over;
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);

/// Two of each, used in turn: who is an operation behind still reads the others.
size_t memory_bytes(uint32_t size) { return sizeof(Head) + 2 * (size_t{size} + 1) * kSlotBytes; }

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  const timespec patience{0, std::chrono::nanoseconds(kSlice).count()};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, value, &patience, nullptr, 0);  // a wake, a change, the time: looked at anew
}
void futex_wake(std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

class SharedCollective final : public CountedCollective {
 public:
  SharedCollective(SharedMemory memory, uint32_t rank, uint32_t size, std::chrono::milliseconds deadline)
      : memory_(std::move(memory)),
        head_(*reinterpret_cast<Head*>(memory_.data())),
        rank_(rank),
        size_(size),
        spins_(size <= static_cast<uint32_t>(usable_cores()) ? kSpins : 0),
        deadline_(deadline) {}

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }

  void abort() noexcept override {
    aborted_ = true;
    head_.over = 1;
    futex_wake(head_.phase);
  }

  void all_reduce(std::span<float> values) override { sum(values, std::nullopt); }
  void all_reduce(std::span<double> values) override { sum(values, std::nullopt); }
  void reduce(std::span<float> values, uint32_t root) override { sum(values, root); }

  void broadcast(std::span<std::byte> bytes, uint32_t root) override {
    in_pieces(bytes.size(), [&](size_t at, size_t count) {
      if (rank_ == root) std::memcpy(slot(root), bytes.data() + at, count);
      barrier();
      if (rank_ != root) std::memcpy(bytes.data() + at, slot(root), count);
    });
  }

  void all_gather(std::span<std::byte> bytes, size_t chunk) override {
    in_pieces(std::min(chunk, bytes.size()), [&](size_t at, size_t count) {
      // The same piece of each shard's part, as far as there is one.
      const auto piece = [&](uint32_t r) {
        const size_t begin = std::min(r * chunk + at, bytes.size()),
                     end = std::min(r * chunk + at + count, bytes.size());
        return bytes.subspan(begin, end - begin);
      };
      std::memcpy(slot(rank_), piece(rank_).data(), piece(rank_).size());
      barrier();
      for (uint32_t r = 0; r < size_; ++r)
        if (r != rank_) std::memcpy(piece(r).data(), slot(r), piece(r).size());
    });
  }

  void shift(std::span<const std::byte> mine, std::span<std::byte> left) override {
    in_pieces(mine.size(), [&](size_t at, size_t count) {
      std::memcpy(slot(rank_), mine.data() + at, count);
      barrier();
      std::memcpy(left.data() + at, slot((rank_ + size_ - 1) % size_), count);
    });
  }

 private:
  std::byte* slot(uint32_t index) const {
    return memory_.data() + sizeof(Head) + (size_t{turn_} * (size_ + 1) + index) * kSlotBytes;
  }
  template <class T>
  T* values_of(uint32_t index) const {
    return reinterpret_cast<T*>(slot(index));
  }

  /// One operation: `piece(at, count)` for each part of `bytes` that fits into a slot, with at least one barrier each.
  template <class Piece>
  void in_pieces(size_t bytes, Piece piece) {
    const Operation operation(*this);
    require_alive();  // before anything is written: peers may still read what was there when the group broke
    for (size_t at = 0; at < bytes; at += kSlotBytes) {
      piece(at, std::min(kSlotBytes, bytes - at));
      turn_ ^= 1;
    }
  }

  /// `root`: who needs the sum; none: everybody.
  template <class T>
  void sum(std::span<T> values, std::optional<uint32_t> root) {
    in_pieces(values.size_bytes(), [&](size_t at, size_t bytes) {
      const auto mine = values.subspan(at / sizeof(T), bytes / sizeof(T));
      const size_t count = mine.size();
      std::memcpy(slot(rank_), mine.data(), bytes);
      barrier();
      const bool needed = !root || *root == rank_;
      if (count * size_ <= kSumByAll) {
        if (needed) add_slots<T>(0, count, mine.data());
        return;
      }
      const size_t begin = count * rank_ / size_, end = count * (rank_ + 1) / size_;
      add_slots<T>(begin, end, values_of<T>(size_) + begin);
      barrier();
      if (needed) std::memcpy(mine.data(), slot(size_), bytes);
    });
  }

  /// [begin, end) of the sum of all slots, to `to`.
  template <class T>
  void add_slots(size_t begin, size_t end, T* to) const {
    std::memcpy(to, values_of<T>(0) + begin, (end - begin) * sizeof(T));
    for (uint32_t r = 1; r < size_; ++r) {
      const T* from = values_of<T>(r) + begin;
      for (size_t i = 0; i < end - begin; ++i) to[i] += from[i];
    }
  }

  /// Returns when all shards have come.
  void barrier() {
    const uint32_t passed = head_.phase;
    require_alive();
    if (head_.arrived.fetch_add(1) + 1 == size_) {
      head_.arrived = 0;
      head_.phase = passed + 1;
      if (head_.sleeping != 0) futex_wake(head_.phase);
      return;
    }
    for (int i = 0; i < spins_; ++i) {
      if (head_.phase != passed) return;
      pause();
    }
    const auto end = Steady::now() + deadline_;
    ++head_.sleeping;
    while (head_.phase == passed && head_.over == 0 && Steady::now() < end) futex_wait(head_.phase, passed);
    --head_.sleeping;
    if (head_.phase != passed) return;
    require_alive();
    abort();
    throw GroupBroken("no end of an operation in time");
  }

  void require_alive() const {
    if (head_.over != 0) throw GroupBroken(aborted_ ? "aborted" : "a peer has given up");
  }

  SharedMemory memory_;
  Head& head_;
  uint32_t rank_, size_;
  int spins_;
  std::chrono::milliseconds deadline_;
  uint32_t turn_ = 0;
  std::atomic<bool> aborted_{false};
};

/// Where shard 0's memory is: a descriptor of its process, and what the memory begins with.
struct Place {
  int64_t pid = 0;
  int64_t fd = 0;
  uint64_t mark = 0;
};

template <class T>
Rendezvous::Value bytes_of(const T& value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  return {bytes, bytes + sizeof value};
}

/// None where the memory of that place cannot be reached.
std::optional<SharedMemory> map_place(const Place& place, size_t bytes) {
  const int fd =
      ::open(("/proc/" + std::to_string(place.pid) + "/fd/" + std::to_string(place.fd)).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  try {
    SharedMemory memory = SharedMemory::map(fd, bytes, true);
    if (reinterpret_cast<const Head*>(memory.data())->mark == place.mark) return memory;
  } catch (const std::exception&) { ::close(fd); }  // some other file of another namespace's process
  return std::nullopt;
}

}  // namespace

std::unique_ptr<Collective> make_shared_collective(Rendezvous& rendezvous, uint32_t rank, uint32_t size,
                                                   std::chrono::milliseconds deadline) {
  std::optional<SharedMemory> memory;
  if (rank == 0) {
    memory = SharedMemory::create("myriad-group", memory_bytes(size), false);
    std::random_device random;
    const Place place{::getpid(), memory->fd(), uint64_t{random()} << 32 | random()};
    reinterpret_cast<Head*>(memory->data())->mark = place.mark;
    rendezvous.set("memory", bytes_of(place));
  } else {
    const Rendezvous::Value value = rendezvous.get("memory", deadline);
    Place place;
    if (value.size() != sizeof place) throw GroupBroken("a rendezvous without the place of a memory");
    std::memcpy(&place, value.data(), sizeof place);
    memory = map_place(place, memory_bytes(size));
    rendezvous.set("mapped/" + std::to_string(rank), {memory ? uint8_t{1} : uint8_t{0}});
  }
  bool all = true;
  for (uint32_t r = 1; r < size; ++r)
    all &= rendezvous.get("mapped/" + std::to_string(r), deadline) == Rendezvous::Value{1};
  if (!all) return nullptr;
  memory->close_fd();
  return std::make_unique<SharedCollective>(std::move(*memory), rank, size, deadline);
}

}  // namespace myriad
