// Autocast: products of matrices in bfloat16 while it lives. Of the thread that made it.
#pragma once

#include <ATen/autocast_mode.h>

namespace myriad {

class Autocast {
 public:
  Autocast(c10::DeviceType device, bool on) : device_(device), on_(on) {
    if (!on_) return;
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::set_autocast_enabled(device_, true);
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::set_autocast_enabled(device_, false);
    at::autocast::clear_cache();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

  static bool is_on(c10::DeviceType device) { return at::autocast::is_autocast_enabled(device); }

 private:
  c10::DeviceType device_;
  bool on_;
};

}  // namespace myriad
