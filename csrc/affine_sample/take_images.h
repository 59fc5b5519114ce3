// Batches out of a pool of bytes: which pixels of a stored image a taken one shows, and the bridge between
// affine_sample.cpp (tensors) and the backends (pointers). A taken image is a window on the stored one in a border of
// zeros, perhaps mirrored.
#pragma once
#include "../common/philox.h"
#include "affine_sample.h"

namespace lada {

// Pixel (y, x) of the result is pixel (y + top, x + left) of the image, from the right if mirrored; zero outside.
struct Window {
  int64_t top = 0, left = 0;
  bool mirrored = false;
};

// The window of image number `image` under a key: every place within `padding` pixels is equally likely, to 2^-30.
LADA_HD Window draw_window(const int64_t* key, int64_t image, int64_t padding, bool mirror) {
  const auto number = static_cast<uint64_t>(image);
  const Philox4 random =
      philox(static_cast<uint64_t>(key[0]), {{0u, static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32),
                                              static_cast<uint32_t>(static_cast<uint64_t>(key[1]))}});
  const auto places = static_cast<uint32_t>(2 * padding + 1);
  return {static_cast<int64_t>(multiply_high(random.word[0], places)) - padding,
          static_cast<int64_t>(multiply_high(random.word[1], places)) - padding, mirror && random.word[2] >> 31 != 0};
}

LADA_HD float normalised(uint8_t value, float mean, float deviation) {
  return (static_cast<float>(value) / 255.0f - mean) / deviation;
}

struct TakeImages {
  const uint8_t* images;  // (stored, channels, height, width)
  Strides strides;
  int64_t stored, channels, height, width;
  const int64_t* index;  // (count,)
  int64_t count;
  const int64_t* key;  // (2,); null: whole images
  int64_t padding;
  bool mirror;
  const float *mean, *deviation;  // (channels,)
  float* out;                     // (count, channels, height, width)
  bool channels_last;             // of out

  LADA_HD Window window(int64_t image) const {
    return key == nullptr ? Window{} : draw_window(key, image, padding, mirror);
  }
};

namespace cpu {
void take_images(const TakeImages&, int threads);
}
namespace cuda {
void take_images(const TakeImages&, void* stream);
}

}  // namespace lada
