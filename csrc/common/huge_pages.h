// Huge pages for large fresh outputs. glibc maps large allocations anew and gives large free ones back, and the page
// faults of writing such memory for the first time cost several times more than the writing; with 2 MiB pages there are
// 512 times fewer of them.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lada {

// Advises the kernel to back memory of several huge pages with them. A hint: refusal changes speed and nothing else.
inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kLarge = size_t{8} << 20;
  if (bytes < kLarge) return;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(data), begin = (address + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(begin), address + bytes - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace lada
