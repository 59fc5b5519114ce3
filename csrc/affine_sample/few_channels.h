// Bilinear sampling of images of few channels in float32, on the CPU: loops of their own, in which all channels of
// four output pixels are worked on at once.
#pragma once
#include "affine_sample.h"

namespace lada::cpu {

constexpr int kFewChannels = 4;  // of a block

// Units [begin, end) of the blocks of all images, in the order of images.
void sample_few_channels(const AffineSample& k, int64_t begin, int64_t end);
void sample_few_channels_backward(const AffineSampleBackward& k, int64_t begin, int64_t end);

}  // namespace lada::cpu
