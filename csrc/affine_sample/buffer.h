// Memory of the CPU loops of affine_sample: it begins with a cache line, and its values begin as anything.
#pragma once
#include <cstdint>
#include <memory>
#include <new>

namespace lada::cpu {

struct CacheLines {
  void operator()(void* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};
template <class A>
using Buffer = std::unique_ptr<A[], CacheLines>;

template <class A>
Buffer<A> buffer(int64_t count) {
  return Buffer<A>(static_cast<A*>(::operator new[](count * sizeof(A), std::align_val_t{64})));
}

}  // namespace lada::cpu
