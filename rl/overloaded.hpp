// Overloaded: several lambdas as one visitor, so that std::visit names every alternative of a variant.
#pragma once

namespace myriad {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;  // clang 14 does not deduce an aggregate's

}  // namespace myriad
