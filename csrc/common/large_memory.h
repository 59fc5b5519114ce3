// Memory for results on the CPU from kKeptBytes on. glibc maps every allocation above 32 MiB anew, and often smaller
// ones; writing to fresh pages for the first time costs five to ten times more than the op that writes them. So blocks
// that are free again are kept and lent again, and they lie on huge pages, of which there are 512 times fewer. What is
// kept and what is lent never exceed together the most that was ever lent at once; and the kernel may take the pages of
// all but kWarmBytes of what is kept whenever it is short of memory (MADV_FREE). Where there is no MADV_FREE, this is
// torch's own allocator.
#pragma once
#include <c10/core/Allocator.h>

#include "large_bytes.h"

namespace lada {

// About what glibc keeps of an ordinary process.
constexpr size_t kWarmBytes = size_t{32} << 20;

c10::Allocator* large_memory();

// Gives the blocks that are kept back to the system.
void release_large_memory();

}  // namespace lada
