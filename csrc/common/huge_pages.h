// Huge pages for large fresh outputs. glibc maps every allocation above 32 MiB anew, and gives the end of its heap back
// when more than 64 MiB of it are free, which two results of 31 MiB reach. The page faults of writing such memory for
// the first time cost several times more than the writing; with 2 MiB pages there are 512 times fewer of them.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lada {

// Advises the kernel to back fresh memory above 16 MiB with huge pages. A hint: refusal changes speed and nothing else.
// Smaller memory is mostly used again, and where it is not, gathering huge pages for it can take longer than the
// faults.
inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kLarge = size_t{16} << 20;
  if (bytes <= kLarge) return;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(data), begin = (address + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(begin), address + bytes - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace lada
