// Sizes of results on the CPU from which on more care is worth it.
#pragma once
#include <cstddef>

namespace lada {

// A huge page. glibc gives freed memory of this size back again and again, and takes it anew page by page.
constexpr std::size_t kKeptBytes = std::size_t{2} << 20;

// More than caches hold: such results pass by them.
constexpr std::size_t kLargeBytes = std::size_t{16} << 20;

}  // namespace lada
