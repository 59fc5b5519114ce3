// From where on a result on the CPU is large: glibc mostly uses smaller memory again, and caches hold it.
#pragma once
#include <cstddef>

namespace lada {

constexpr std::size_t kLargeBytes = std::size_t{16} << 20;

}  // namespace lada
