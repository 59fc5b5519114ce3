// Runs one case of this folder:  broken_<detector> CASE broken|correct.  Every run repeats in three orders of threads
// with two poison bytes, and says so if the results are not the same bit for bit.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "barriers.h"
#include "bounds.h"
#include "case.h"
#include "races.h"
#include "unwritten.h"

extern "C" void on_host_configure(int order, int poison, int64_t max_blocks, int64_t max_int32_count);

namespace {

// Exactly so many floats on a 16-byte boundary: rounding up would hide an access past the end.
std::unique_ptr<float, decltype(&std::free)> floats(size_t count) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, count * sizeof(float)) != 0) throw std::bad_alloc();
  return {static_cast<float*>(memory), &std::free};
}

std::vector<unsigned char> run(const Case& c, bool broken, int order, int poison) {
  on_host_configure(order, poison, 1 << 30, 1 << 30);
  const auto in = floats(c.shape.inputs), out = floats(c.shape.outputs);
  for (size_t i = 0; i < c.shape.inputs; ++i) in.get()[i] = static_cast<float>(i);
  std::memset(out.get(), poison, c.shape.outputs * sizeof(float));
  const auto kernel = broken ? c.broken : c.correct;
  on_host::launch(c.name.c_str(), reinterpret_cast<void*>(kernel), c.shape.blocks, c.shape.threads,
                  [&] { kernel(in.get(), out.get(), static_cast<int>(c.shape.inputs)); });
  const auto* bytes = reinterpret_cast<const unsigned char*>(out.get());
  return {bytes, bytes + c.shape.outputs * sizeof(float)};
}

int run_all(const Case& c, bool broken) {
  const auto expected = run(c, broken, 0, 0xff);
  for (int order = 0; order < 3; ++order)
    for (const int poison : {0xff, 0x7f})
      if (run(c, broken, order, poison) != expected) {
        std::fprintf(stderr, "results differ between thread orders or poison bytes\n");
        return 1;
      }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  for (const Case& c : cases())
    if (argc == 3 && c.name == argv[1]) {
      try {
        return run_all(c, std::strcmp(argv[2], "broken") == 0);
      } catch (const std::runtime_error&) {
        return 1;  // the runtime has printed its report
      }
    }
  std::fprintf(stderr, "usage: %s CASE broken|correct\n", argv[0]);
  return 2;
}
