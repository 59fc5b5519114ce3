// The blocks of large_memory.h.
#include "large_memory.h"

#include <c10/util/Exception.h>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)

#include <algorithm>
#include <mutex>
#include <vector>

namespace lada {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t whole_pages(size_t bytes) {
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

struct Block {
  char* data;
  size_t bytes;
  bool is_warm = false;  // kept, and not for the kernel to take
};

// Huge pages as far as whole ones go, and small ones for the rest. Null if the system has no memory.
Block* mapped(size_t bytes) {
  void* range = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (range == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(range);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, kHugePage - before);
  madvise(begin + before, bytes / kHugePage * kHugePage,
          MADV_HUGEPAGE);  // a hint: refusal changes speed and nothing else
  return new Block{begin + before, bytes};
}

void unmap(Block* block) {
  munmap(block->data, block->bytes);
  delete block;
}

class LargeMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    Block* block = lend(whole_pages(bytes));
    TORCH_CHECK(block != nullptr, "lada_ext: cannot allocate ", bytes, " bytes for a result");
    return {block->data, block, &give_back, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (!kept_.empty()) forget_oldest();
  }

  // Never destroyed, since results may outlive everything. A process that forks while another of its threads is in here
  // would leave the child a lock that nobody opens.
  static LargeMemory& instance() {
    static auto* memory = [] {
      auto* made = new LargeMemory;
      pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                     [] { instance().mutex_.unlock(); });
      return made;
    }();
    return *memory;
  }

 private:
  static void give_back(void* block) { instance().keep(static_cast<Block*>(block)); }

  Block* lend(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Block* block = take_kept(bytes);
    if (block == nullptr) block = mapped(bytes);
    if (block == nullptr) {
      while (!kept_.empty()) forget_oldest();
      block = mapped(bytes);
    }
    if (block == nullptr) return nullptr;
    lent_bytes_ += block->bytes;
    most_lent_bytes_ = std::max(most_lent_bytes_, lent_bytes_);
    while (lent_bytes_ + kept_bytes_ > most_lent_bytes_) forget_oldest();
    report(block->data, static_cast<int64_t>(block->bytes));
    return block;
  }

  // The smallest block that is kept and large enough, but not by more than a quarter; null if there is none.
  Block* take_kept(size_t bytes) {
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it)
      if ((*it)->bytes >= bytes && (*it)->bytes <= bytes + bytes / 4 &&
          (best == kept_.end() || (*it)->bytes < (*best)->bytes))
        best = it;
    if (best == kept_.end()) return nullptr;
    return remove(best);
  }

  void keep(Block* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    lent_bytes_ -= block->bytes;
    report(block->data, -static_cast<int64_t>(block->bytes));
    block->is_warm = warm_bytes_ + block->bytes <= kWarmBytes;
    if (!block->is_warm && madvise(block->data, block->bytes, MADV_FREE) != 0) return unmap(block);
    kept_.push_back(block);
    kept_bytes_ += block->bytes;
    warm_bytes_ += block->is_warm ? block->bytes : 0;
  }

  void forget_oldest() { unmap(remove(kept_.begin())); }

  Block* remove(std::vector<Block*>::iterator it) {
    Block* block = *it;
    kept_.erase(it);
    kept_bytes_ -= block->bytes;
    warm_bytes_ -= block->is_warm ? block->bytes : 0;
    return block;
  }

  void report(void* data, int64_t bytes) const {
    if (c10::memoryProfilingEnabled())
      c10::reportMemoryUsageToProfiler(data, bytes, lent_bytes_, lent_bytes_ + kept_bytes_, c10::Device(c10::kCPU));
  }

  std::mutex mutex_;
  std::vector<Block*> kept_;  // the oldest first
  size_t kept_bytes_ = 0, warm_bytes_ = 0, lent_bytes_ = 0, most_lent_bytes_ = 0;
};

}  // namespace

c10::Allocator* large_memory() { return &LargeMemory::instance(); }

void release_large_memory() { LargeMemory::instance().release(); }

}  // namespace lada

#else

namespace lada {

c10::Allocator* large_memory() { return c10::GetAllocator(c10::kCPU); }

void release_large_memory() {}

}  // namespace lada

#endif
