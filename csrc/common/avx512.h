// Whether loops written by hand for AVX-512 are taken: where the processor has it, unless LADA_EXT_AVX512=0 in the
// environment asks for the loops that other processors take, so that these can be tested here.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <cstdlib>
#include <string_view>

namespace lada::cpu {

inline bool takes_avx512() {
  static const bool takes = [] {
    const char* wish = std::getenv("LADA_EXT_AVX512");
    return __builtin_cpu_supports("avx512f") && (wish == nullptr || std::string_view(wish) != "0");
  }();
  return takes;
}

}  // namespace lada::cpu
#endif
