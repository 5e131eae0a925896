#include "learners/group/rendezvous_store.hpp"

#include <algorithm>
#include <thread>

namespace myriad {
namespace {

constexpr std::chrono::milliseconds kSlice(20);

class RendezvousStore final : public c10d::Store {
 public:
  RendezvousStore(std::shared_ptr<RendezvousLink> link, std::chrono::milliseconds patience)
      : c10d::Store(patience), link_(std::move(link)) {}

  c10::intrusive_ptr<c10d::Store> clone() override { return c10::make_intrusive<RendezvousStore>(link_, timeout_); }
  void set(const std::string& key, const std::vector<uint8_t>& value) override { link_->set(key, value); }
  std::vector<uint8_t> get(const std::string& key) override { return link_->get(key, timeout_); }
  bool check(const std::vector<std::string>& keys) override {
    return std::all_of(keys.begin(), keys.end(), [&](const std::string& key) { return link_->has(key); });
  }
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override {
    for (const std::string& key : keys) link_->get(key, timeout);
  }
  bool hasExtendedApi() const override { return true; }
  std::vector<std::vector<uint8_t>> multiGet(const std::vector<std::string>& keys) override {
    std::vector<std::vector<uint8_t>> values;
    for (const std::string& key : keys) values.push_back(get(key));
    return values;
  }
  void multiSet(const std::vector<std::string>& keys, const std::vector<std::vector<uint8_t>>& values) override {
    for (size_t i = 0; i < keys.size(); ++i) set(keys[i], values[i]);
  }

  int64_t add(const std::string&, int64_t) override { unsupported("add"); }
  bool deleteKey(const std::string&) override { unsupported("deleteKey"); }
  int64_t getNumKeys() override { unsupported("getNumKeys"); }

 private:
  [[noreturn]] static void unsupported(const char* what) {
    throw GroupBroken(std::string("a rendezvous has no ") + what);
  }
  std::shared_ptr<RendezvousLink> link_;
};

}  // namespace

void RendezvousLink::set(const std::string& key, const std::vector<uint8_t>& value) {
  const std::lock_guard lock(mutex_);
  if (rendezvous_ == nullptr) throw GroupBroken("given up");
  rendezvous_->set(key, value);
}
Rendezvous::Value RendezvousLink::get(const std::string& key, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (rendezvous_ == nullptr) throw GroupBroken("given up");
      if (rendezvous_->has(key) || rendezvous_->over()) return rendezvous_->get(key, kSlice);
    }
    if (std::chrono::steady_clock::now() >= end) throw GroupBroken("no '" + key + "' in time");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}
bool RendezvousLink::has(const std::string& key) {
  const std::lock_guard lock(mutex_);
  return rendezvous_ != nullptr && rendezvous_->has(key);
}
bool RendezvousLink::over() {
  const std::lock_guard lock(mutex_);
  return rendezvous_ == nullptr || rendezvous_->over();
}
void RendezvousLink::cut() {
  const std::lock_guard lock(mutex_);
  rendezvous_ = nullptr;
}

c10::intrusive_ptr<c10d::Store> make_rendezvous_store(std::shared_ptr<RendezvousLink> link,
                                                      std::chrono::milliseconds patience) {
  return c10::make_intrusive<RendezvousStore>(std::move(link), patience);
}

}  // namespace myriad
