// GlContext: OpenGL without a screen, by EGL: on a GPU, or in software by Mesa's llvmpipe.
//
// libEGL is opened with dlopen by the first context of the process, so that runners, which never draw, neither link
// nor map any of it. A context is used by one thread at a time, which makes it current before every use.
#pragma once

namespace myriad {

class GlContext {
 public:
  /// Current afterwards. Throws Error("no-rendering") naming the packages where there is no OpenGL.
  GlContext();
  ~GlContext();
  GlContext(const GlContext&) = delete;
  GlContext& operator=(const GlContext&) = delete;

  void make_current();

 private:
  void* context_;
};

}  // namespace myriad
