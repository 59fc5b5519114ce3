// Philox4x32-10 (Salmon et al., 2011): 128 random bits as a pure function of a 64-bit key and a 128-bit counter.
#pragma once
#include "math.h"

namespace lada {

struct Philox4 {
  uint32_t word[4];
};

LADA_HD Philox4 philox(uint64_t key, Philox4 counter) {
  constexpr uint32_t kMultiply0 = 0xD2511F53u, kMultiply1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiply0) * counter.word[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiply1) * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

}  // namespace lada
