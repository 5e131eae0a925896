#include "sims/mujoco/gl_context.hpp"

#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <vector>

#include "rl/check.hpp"

namespace myriad {
namespace {

// What we need of EGL 1.5 and its extensions (Khronos registry), so that no header of a windowing system is needed.
using Display = void*;
using Config = void*;
using Device = void*;
enum : int32_t { kNone = 0x3038, kSurfaceType = 0x3033, kPbufferBit = 1, kRenderableType = 0x3040, kOpenGlBit = 8 };
enum : int32_t { kRedSize = 0x3024, kGreenSize = 0x3023, kBlueSize = 0x3022, kDepthSize = 0x3025 };
enum : unsigned { kOpenGlApi = 0x30A2, kPlatformDevice = 0x313F, kPlatformSurfaceless = 0x31DD };

/// libEGL and an initialised display, once a process.
class Egl {
 public:
  static Egl& instance() {
    static Egl egl;
    return egl;
  }

  void* make_context() {
    constexpr std::array<int32_t, 13> kWanted{kSurfaceType, kPbufferBit, kRenderableType, kOpenGlBit, kRedSize,   8,
                                              kGreenSize,   8,           kBlueSize,       8,          kDepthSize, 24,
                                              kNone};
    Config config = nullptr;
    int32_t configs = 0;
    choose_config_(display_, kWanted.data(), &config, 1, &configs);
    void* context =
        configs > 0 && bind_api_(kOpenGlApi) != 0 ? create_context_(display_, config, nullptr, nullptr) : nullptr;
    if (context == nullptr) unusable("has no OpenGL context for us");
    return context;
  }
  void make_current(void* context) {
    if (make_current_(display_, nullptr, nullptr, context) == 0) unusable("cannot use its OpenGL context");
  }
  void destroy(void* context) {
    make_current_(display_, nullptr, nullptr, nullptr);
    destroy_context_(display_, context);
  }

 private:
  Egl() {
    // RTLD_GLOBAL: MuJoCo looks for eglGetProcAddress among the global symbols.
    library_ = ::dlopen("libEGL.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (library_ == nullptr) unusable(::dlerror());
    get_proc_address_ = symbol<void* (*)(const char*)>("eglGetProcAddress");
    bind_api_ = symbol<unsigned (*)(unsigned)>("eglBindAPI");
    choose_config_ = symbol<unsigned (*)(Display, const int32_t*, Config*, int32_t, int32_t*)>("eglChooseConfig");
    create_context_ = symbol<void* (*)(Display, Config, void*, const int32_t*)>("eglCreateContext");
    destroy_context_ = symbol<unsigned (*)(Display, void*)>("eglDestroyContext");
    make_current_ = symbol<unsigned (*)(Display, void*, void*, void*)>("eglMakeCurrent");
    display_ = open_display();
    if (display_ == nullptr) unusable("shows no display without a screen");
  }

  /// The first device that can be used, GPUs before software; else Mesa's display without any.
  Display open_display() {
    const auto get_display = extension<Display (*)(unsigned, void*, const int32_t*)>("eglGetPlatformDisplayEXT");
    const auto query_devices = extension<unsigned (*)(int32_t, Device*, int32_t*)>("eglQueryDevicesEXT");
    const auto initialize = symbol<unsigned (*)(Display, int32_t*, int32_t*)>("eglInitialize");
    const auto open = [&](unsigned platform, Device device) -> Display {
      const Display display = get_display ? get_display(platform, device, nullptr) : nullptr;
      return display != nullptr && initialize(display, nullptr, nullptr) != 0 ? display : nullptr;
    };
    std::array<Device, 16> devices{};
    int32_t count = 0;
    if (query_devices != nullptr) query_devices(static_cast<int32_t>(devices.size()), devices.data(), &count);
    for (int32_t i = 0; i < count; ++i)
      if (const Display display = open(kPlatformDevice, devices[static_cast<size_t>(i)])) return display;
    return open(kPlatformSurfaceless, nullptr);
  }

  template <class F>
  F symbol(const char* name) {
    void* found = ::dlsym(library_, name);
    if (found == nullptr) unusable(::dlerror());
    return reinterpret_cast<F>(found);
  }
  template <class F>
  F extension(const char* name) {
    return reinterpret_cast<F>(get_proc_address_(name));
  }
  [[noreturn]] static void unusable(const char* reason) {
    fail(Exit::environment, "no-rendering",
         "this machine cannot draw MuJoCo tasks: libEGL {}; Debian: apt-get install libegl1 libgl1-mesa-dri", reason);
  }

  void* library_ = nullptr;
  Display display_ = nullptr;
  void* (*get_proc_address_)(const char*) = nullptr;
  unsigned (*bind_api_)(unsigned) = nullptr;
  unsigned (*choose_config_)(Display, const int32_t*, Config*, int32_t, int32_t*) = nullptr;
  void* (*create_context_)(Display, Config, void*, const int32_t*) = nullptr;
  unsigned (*destroy_context_)(Display, void*) = nullptr;
  unsigned (*make_current_)(Display, void*, void*, void*) = nullptr;
};

}  // namespace

GlContext::GlContext() : context_(Egl::instance().make_context()) { make_current(); }
GlContext::~GlContext() { Egl::instance().destroy(context_); }
void GlContext::make_current() { Egl::instance().make_current(context_); }

}  // namespace myriad
