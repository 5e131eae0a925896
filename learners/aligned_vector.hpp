// AlignedVector: floats on a 64-byte boundary. Eigen sums what lies before the first aligned element apart, so that the
// same numbers at another address give another last bit; with fixed alignment a resumed run repeats to the bit.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace myriad {

template <class T>
struct AlignedAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}  // NOLINT: allocators convert
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const AlignedAllocator&) const = default;
};

using AlignedVector = std::vector<float, AlignedAllocator<float>>;

}  // namespace myriad
