// What a thread takes at a time on the CPU: some channels of one image, which are worked on together.
#pragma once
#include <algorithm>

#include "affine_sample.h"

namespace lada::cpu {

// Block `block` of an image's channels, kMost or what is left of them, from number `index` of all images' blocks.
template <int kMost>
struct Unit {
  int64_t image, block, first_channel;
  int channels;

  Unit(int64_t index, const AffineInputs& in) {
    const int64_t blocks = (in.channels + kMost - 1) / kMost;
    image = index / blocks, block = index % blocks, first_channel = block * kMost;
    channels = static_cast<int>(std::min<int64_t>(kMost, in.channels - first_channel));
  }
};

}  // namespace lada::cpu
