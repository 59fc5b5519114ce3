// Philox4x32-10 (Salmon et al., 2011): 128 random bits as a pure function of a 64-bit key and a 128-bit counter.
#pragma once
#include "math.h"

namespace lada {

constexpr uint32_t kPhiloxMultiply0 = 0xD2511F53u, kPhiloxMultiply1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

struct Philox4 {
  uint32_t word[4];
};

// The upper half of a 64-bit product; written so, compilers find the vector instruction for it.
LADA_HD uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

LADA_HD Philox4 philox(uint64_t key, Philox4 counter) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint32_t c0 = counter.word[0], c2 = counter.word[2];
    counter = {{multiply_high(kPhiloxMultiply1, c2) ^ counter.word[1] ^ key0, kPhiloxMultiply1 * c2,
                multiply_high(kPhiloxMultiply0, c0) ^ counter.word[3] ^ key1, kPhiloxMultiply0 * c0}};
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

}  // namespace lada
