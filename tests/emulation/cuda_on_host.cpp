// The scheduler behind cuda_on_host.h: runs each CUDA thread of a block as a fiber with a stack of its own, in a chosen
// order, until all have met at a barrier, a warp operation or the end. Compiled without -fsanitize, so that its own
// accesses are invisible to the detectors; ON_HOST_ASAN and ON_HOST_TSAN tell it which one watches the kernels.
// ThreadSanitizer knows each fiber as a thread; a switch between them orders nothing, only barriers do.
#include <cuda_runtime.h>
#include <cxxabi.h>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

#if defined(ON_HOST_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom_old, size_t* size_old);
void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}
#elif defined(ON_HOST_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

// Saves the registers that a call preserves and the stack pointer into *from, and continues where `to` was saved.
extern "C" void on_host_switch(void** from, void* to);
asm(R"(
.text
.globl on_host_switch
.hidden on_host_switch
.type on_host_switch, @function
on_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size on_host_switch, .-on_host_switch
)");

namespace on_host {
namespace {

using Where = std::source_location;

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kStack = 256 << 10;
constexpr size_t kPage = 4096;

enum class State { kReady, kAtBarrier, kAtWarpSync, kAtExchange, kAtVote, kExited };
enum class Order { kForward, kReverse, kRandom };

struct Fiber {
  State state;
  Where where;
  unsigned mask;
  uint64_t bits;        // what this lane brought
  unsigned warp_syncs;  // completed groups that this lane led
  char* stack;
  void* stack_pointer;
  void* fake_stack;
};

struct SharedArray {
  const void* tag;
  void* memory;
};

// Static, because ThreadSanitizer watches malloc wherever it is called from.
std::array<Fiber, kMaxThreads> fibers;  // by thread index
std::array<char*, kMaxThreads> stacks;
std::array<std::array<uint64_t, kWarp>, kMaxThreads / kWarp> snapshots;  // what a warp's lanes last exchanged
std::array<SharedArray, 64> shared_arrays;
unsigned shared_count;
unsigned threads, current, barrier_arrivals, barriers;
const std::function<void()>* thread_body;
void* host_stack_pointer;
std::string* launched_text;

Order order = Order::kForward;
unsigned char poison = 0xff;
int64_t block_limit = int64_t{1} << 30;
int64_t int32_limit = INT32_MAX;
uint64_t random_state = 88172645463325252ull;

unsigned random_below(unsigned bound) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return static_cast<unsigned>((random_state >> 33) % bound);
}

// 0 .. count-1 in the chosen order, written to `out`.
void arrange(unsigned* out, unsigned count) {
  for (unsigned i = 0; i < count; ++i) out[i] = order == Order::kReverse ? count - 1 - i : i;
  if (order != Order::kRandom) return;
  for (unsigned i = count; i > 1; --i) std::swap(out[i - 1], out[random_below(i)]);
}

char* map_pages(size_t bytes) {
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(pages);
}

// ---- what each detector needs to know ---------------------------------------------------------------------------

#if defined(ON_HOST_TSAN)

constexpr unsigned kMaxWatched = 256;  // barriers cost ThreadSanitizer the square of the threads
constexpr unsigned kSyncsOfLane = 4096;
void *host_fiber, *watched[kMaxWatched + 1];
unsigned rotation;
char launch_start, launch_end, barrier_points[1 << 16], warp_points[kMaxWatched * kSyncsOfLane];

// Blocks share fibers; each block takes them in a new rotation, so that races between equal thread indices show. A
// stack stays with its fiber.
unsigned fiber_of(unsigned thread) { return (thread + rotation) % (kMaxWatched + 1); }

void watch_launch_begin() {
  if (threads > kMaxWatched)
    throw std::runtime_error("emulation: ThreadSanitizer runs need blocks of at most 256 threads, got " +
                             std::to_string(threads));
  host_fiber = __tsan_get_current_fiber();
  for (void*& fiber : watched)
    if (!fiber) fiber = __tsan_create_fiber(0);
  __tsan_release(&launch_start);
}
void watch_launch_end() { __tsan_acquire(&launch_end); }
void watch_block_begin() { rotation = random_below(kMaxWatched + 1); }
void watch_enter(unsigned thread) { __tsan_switch_to_fiber(watched[fiber_of(thread)], 1); }
void watch_first_entry() { __tsan_acquire(&launch_start); }
void watch_leave(bool last) {
  if (last) __tsan_release(&launch_end);
  __tsan_switch_to_fiber(host_fiber, 1);
}
void watch_return_to_host() {}
void watch_return_to_fiber() {}
// A fresh address for every barrier: otherwise a thread late out of one would also acquire what the next releases.
void* barrier_point() { return &barrier_points[barriers % sizeof(barrier_points)]; }
void* warp_point(unsigned leader) {
  return &warp_points[leader * kSyncsOfLane + fibers[leader].warp_syncs % kSyncsOfLane];
}
void release_order(void* point) { __tsan_release(point); }
void acquire_order(void* point) { __tsan_acquire(point); }
void watch_abandon() {
  // abandoned fibers would give false reports from here on
  std::fflush(nullptr);
  _exit(66);
}

#else

#if defined(ON_HOST_ASAN)
const void* host_stack;
size_t host_stack_size;
void* host_fake_stack;

void watch_enter(unsigned thread) { __sanitizer_start_switch_fiber(&host_fake_stack, fibers[thread].stack, kStack); }
void watch_return_to_host() { __sanitizer_finish_switch_fiber(host_fake_stack, nullptr, nullptr); }
void watch_first_entry() { __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_size); }
void watch_leave(bool last) {
  __sanitizer_start_switch_fiber(last ? nullptr : &fibers[current].fake_stack, host_stack, host_stack_size);
}
void watch_return_to_fiber() {
  __sanitizer_finish_switch_fiber(fibers[current].fake_stack, &host_stack, &host_stack_size);
}
void watch_abandon() {
  for (unsigned i = 0; i < threads; ++i) __asan_unpoison_memory_region(fibers[i].stack, kStack);
}
#else
void watch_enter(unsigned) {}
void watch_return_to_host() {}
void watch_first_entry() {}
void watch_leave(bool) {}
void watch_return_to_fiber() {}
void watch_abandon() {}
#endif

unsigned fiber_of(unsigned thread) { return thread; }
void watch_launch_begin() {}
void watch_launch_end() {}
void watch_block_begin() {}
void* barrier_point() { return nullptr; }
void* warp_point(unsigned) { return nullptr; }
void release_order(void*) {}
void acquire_order(void*) {}

#endif

// ---- shared memory ------------------------------------------------------------------------------------------------

#if defined(ON_HOST_ASAN)

void* new_shared(size_t bytes, size_t alignment) {
  void* memory = nullptr;  // exactly `bytes`: rounding up would hide an overrun
  if (posix_memalign(&memory, alignment, bytes) != 0) throw std::bad_alloc();
  std::memset(memory, poison, bytes);
  return memory;
}
void free_shared() {
  for (unsigned i = 0; i < shared_count; ++i) std::free(shared_arrays[i].memory);
}
void rewind_shared() {}

#else

// Under ThreadSanitizer every block of a launch takes fresh addresses: reuse would look like a race between blocks.
constexpr size_t kArena = size_t{1} << 30;
char* arena;
size_t arena_used;

void* new_shared(size_t bytes, size_t alignment) {
  arena_used = (arena_used + alignment - 1) / alignment * alignment;
  if (arena_used + bytes > kArena)
    throw std::runtime_error("emulation: the blocks of a launch use over 1 GiB of shared memory");
  char* memory = arena + arena_used;
  arena_used += bytes + 64;
#if !defined(ON_HOST_TSAN)
  std::memset(memory, poison, bytes);
#endif
  return memory;
}
#if defined(ON_HOST_TSAN)
void free_shared() {}
#else
void free_shared() { arena_used = 0; }
#endif
void rewind_shared() {
  if (!arena) arena = map_pages(kArena);
  arena_used = 0;
}

#endif

// ---- fibers ---------------------------------------------------------------------------------------------------------

void select(unsigned thread) {
  current = thread;
  threadIdx = {thread, 0, 0};
}

[[noreturn]] void thread_entry() {
  watch_first_entry();
  (*thread_body)();
  fibers[current].state = State::kExited;
  watch_leave(true);
  void* ignored;
  on_host_switch(&ignored, host_stack_pointer);
  std::abort();
}

void prepare(unsigned thread) {
  char*& stack = stacks[fiber_of(thread)];
  if (!stack) {
    stack = map_pages(kStack + kPage) + kPage;
    mprotect(stack - kPage, kPage, PROT_NONE);
  }
  Fiber& fiber = fibers[thread];
  fiber.stack = stack;
  void** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;  // where a return address would be: thread_entry sees the alignment of a called function
  *--top = reinterpret_cast<void*>(&thread_entry);
  top -= 6;
  std::fill(top, top + 6, nullptr);
  fiber.stack_pointer = top;
  fiber.state = State::kReady;
  fiber.warp_syncs = 0;
}

void run(unsigned thread) {
  select(thread);
  watch_enter(thread);
  on_host_switch(&host_stack_pointer, fibers[thread].stack_pointer);
  watch_return_to_host();
}

// The running thread waits until another one makes it ready. If it already is, others have their turn all the same.
void wait() {
  watch_leave(false);
  on_host_switch(&fibers[current].stack_pointer, host_stack_pointer);
  watch_return_to_fiber();
}

const char* verb(State state) {
  switch (state) {
    case State::kReady:
      return "run";
    case State::kAtBarrier:
      return "wait at __syncthreads";
    case State::kAtWarpSync:
      return "wait at __syncwarp";
    case State::kAtExchange:
      return "wait at a shuffle";
    case State::kAtVote:
      return "wait at a vote";
    case State::kExited:
      return "exited";
  }
  return "";
}

bool same_place(const Fiber& a, const Fiber& b) {
  return a.state == b.state &&
         (a.state == State::kExited || (a.where.line() == b.where.line() && a.mask == b.mask &&
                                        std::strcmp(a.where.file_name(), b.where.file_name()) == 0));
}

// Who waits where, one line for each run of neighbouring threads.
std::string standing() {
  std::ostringstream text;
  for (unsigned first = 0, last; first < threads; first = last + 1) {
    for (last = first; last + 1 < threads && same_place(fibers[first], fibers[last + 1]); ++last) {
    }
    text << "\n  threads " << first << "-" << last << " " << verb(fibers[first].state);
    if (fibers[first].state != State::kExited)
      text << ", " << fibers[first].where.file_name() << ":" << fibers[first].where.line();
    if (fibers[first].state > State::kAtBarrier && fibers[first].state < State::kExited)
      text << ", mask 0x" << std::hex << fibers[first].mask << std::dec;
  }
  return text.str();
}

[[noreturn]] void report(const std::string& what) {
  const std::string text = "emulation: " + what + " in block " + std::to_string(blockIdx.x) + ":" + standing();
  std::fprintf(stderr, "%s\n", text.c_str());
  watch_abandon();
  throw std::runtime_error(text);
}

const char* pending_report;  // found inside a fiber, thrown on the host's stack

void run_block(const std::function<void()>& body) {
  thread_body = &body;
  barrier_arrivals = shared_count = 0;
  watch_block_begin();
  for (unsigned i = 0; i < threads; ++i) prepare(i);
  static std::array<unsigned, kMaxThreads> turns;
  for (unsigned exited = 0; exited < threads;) {
    bool progress = false;
    arrange(turns.data(), threads);
    for (unsigned i = 0; i < threads; ++i) {
      if (fibers[turns[i]].state != State::kReady) continue;
      run(turns[i]);
      progress = true;
      exited += fibers[turns[i]].state == State::kExited;
      if (pending_report) report(std::exchange(pending_report, nullptr));
    }
    if (!progress) report("the threads of a block do not meet");
  }
  free_shared();
}

// ---- meeting points -------------------------------------------------------------------------------------------------

unsigned warp_base() { return current / kWarp * kWarp; }

// Whether all lanes of `mask` stand where the running thread stands. Then they are ready again.
bool complete_group(unsigned mask) {
  const Fiber& self = fibers[current];
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (mask >> lane & 1 && !(warp_base() + lane < threads && same_place(fibers[warp_base() + lane], self)))
      return false;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (mask >> lane & 1) {
      fibers[warp_base() + lane].state = State::kReady;
      snapshots[warp_base() / kWarp][lane] = fibers[warp_base() + lane].bits;
    }
  return true;
}

void arrive(State state, unsigned mask, uint64_t bits, Where where) {
  Fiber& self = fibers[current];
  self.state = state;
  self.where = where;
  self.mask = mask;
  self.bits = bits;
  if (!(mask >> (current % kWarp) & 1)) pending_report = "a lane calls a warp operation whose mask leaves it out";
}

}  // namespace

void sync_block(Where where) {
  arrive(State::kAtBarrier, ~0u, 0, where);
  void* point = barrier_point();
  release_order(point);
  if (++barrier_arrivals == threads) {
    for (unsigned i = 0; i < threads; ++i)
      if (!same_place(fibers[i], fibers[current])) pending_report = "the threads of a block meet at different barriers";
    if (!pending_report)
      for (unsigned i = 0; i < threads; ++i) fibers[i].state = State::kReady;
    barrier_arrivals = 0;
    ++barriers;
  }
  wait();
  acquire_order(point);
}

void sync_warp(unsigned mask, Where where) {
  arrive(State::kAtWarpSync, mask, 0, where);
  const unsigned leader = warp_base() + static_cast<unsigned>(__builtin_ctz(mask));
  void* point = warp_point(leader);
  release_order(point);
  if (complete_group(mask)) ++fibers[leader].warp_syncs;
  wait();
  acquire_order(point);
}

uint64_t exchange(unsigned mask, uint64_t bits, int source, Where where) {
  arrive(State::kAtExchange, mask, bits, where);
  if (!pending_report && !(mask >> source & 1)) pending_report = "a shuffle reads a lane that its mask leaves out";
  complete_group(mask);
  wait();
  return snapshots[warp_base() / kWarp][source];
}

unsigned vote(unsigned mask, bool predicate, Where where) {
  arrive(State::kAtVote, mask, predicate, where);
  complete_group(mask);
  wait();
  unsigned result = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (mask >> lane & 1 && snapshots[warp_base() / kWarp][lane]) result |= 1u << lane;
  return result;
}

void* shared_array(const void* tag, size_t bytes, size_t alignment) {
  for (unsigned i = 0; i < shared_count; ++i)
    if (shared_arrays[i].tag == tag) return shared_arrays[i].memory;
  if (shared_count == shared_arrays.size()) throw std::runtime_error("emulation: over 64 shared arrays in a block");
  shared_arrays[shared_count] = {tag, new_shared(bytes, alignment)};
  return shared_arrays[shared_count++].memory;
}

int64_t max_blocks() { return block_limit; }
int64_t max_int32_count() { return int32_limit; }

namespace {

std::string name_of(void* kernel) {
  Dl_info info;
  if (!dladdr(kernel, &info) || !info.dli_sname) return "";
  int status = 0;
  char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : info.dli_sname;
  std::free(demangled);
  return name;
}

}  // namespace

void launch(const char* name, void* kernel, unsigned blocks, unsigned block_threads,
            const std::function<void()>& body) {
  static std::mutex one_at_a_time;
  const std::lock_guard guard(one_at_a_time);
  if (block_threads == 0 || block_threads > kMaxThreads)
    throw std::runtime_error(std::string("emulation: ") + name + " asks for " + std::to_string(block_threads) +
                             " threads");
  static std::set<void*> seen;
  if (seen.insert(kernel).second) {
    if (!launched_text) launched_text = new std::string;
    *launched_text += name_of(kernel) + "\n";
  }
  threads = block_threads;
  blockDim = dim3(block_threads);
  gridDim = dim3(blocks);
  rewind_shared();
  watch_launch_begin();
  std::vector<unsigned> turns(blocks);
  arrange(turns.data(), blocks);
  for (const unsigned block : turns) {
    blockIdx = {block, 0, 0};
    run_block(body);
  }
  watch_launch_end();
}

}  // namespace on_host

// What the tests call through ctypes.
extern "C" {

void on_host_configure(int order, int poison, int64_t max_blocks, int64_t max_int32_count) {
  on_host::order = static_cast<on_host::Order>(order);
  on_host::poison = static_cast<unsigned char>(poison);
  on_host::block_limit = max_blocks;
  on_host::int32_limit = max_int32_count;
}

// The kernels launched so far, one a line.
const char* on_host_launched() { return on_host::launched_text ? on_host::launched_text->c_str() : ""; }
}
