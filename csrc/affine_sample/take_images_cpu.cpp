// take_images on the CPU: a row of bytes is gathered, then turned into floats by one loop that vectorises.
#include <cstring>
#include <vector>

#include "../common/cpu.h"
#include "take_images.h"

namespace lada::cpu {
namespace {

// Results lie in memory as rows: the pixels of a row with all their channels, or the pixels of a row of one channel.
struct Layout {
  int64_t rows_of_image, together, pixels;  // channels that lie together; pixels of a row

  explicit Layout(const TakeImages& k)
      : rows_of_image(k.channels_last ? k.height : k.channels * k.height),
        together(k.channels_last ? k.channels : 1),
        pixels(k.width) {}
  int64_t length() const { return together * pixels; }
};

// Mean and deviation for each place of the rows of each channel, so that no row has to ask for its channel's.
struct Tones {
  std::vector<float> mean, deviation;

  Tones(const TakeImages& k, const Layout& layout) : mean(k.channels * k.width), deviation(mean.size()) {
    for (size_t i = 0; i < mean.size(); ++i) {
      const int64_t channel = k.channels_last ? i % layout.together : i / layout.pixels;
      mean[i] = k.mean[channel];
      deviation[i] = k.deviation[channel];
    }
  }
};

LADA_CLONES void normalise(const uint8_t* bytes, const float* mean, const float* deviation, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = normalised(bytes[i], mean[i], deviation[i]);
}

// The bytes of a row of the result, `from` its stored row, or null outside of the image.
void gather(const TakeImages& k, const Layout& layout, const uint8_t* from, const Window& window, uint8_t* bytes) {
  const int64_t begin = clamp<int64_t>(-window.left, 0, k.width),
                end = clamp<int64_t>(k.width - window.left, 0, k.width);
  std::memset(bytes, 0, layout.length());
  if (from == nullptr) return;
  const bool dense = k.strides.column == layout.together && (layout.together == 1 || k.strides.channel == 1);
  if (dense && !window.mirrored && begin < end) {
    std::memcpy(bytes + begin * layout.together, from + (begin + window.left) * layout.together,
                (end - begin) * layout.together);
    return;
  }
  for (int64_t x = begin; x < end; ++x) {
    uint8_t* to = bytes + (window.mirrored ? k.width - 1 - x : x) * layout.together;
    for (int64_t c = 0; c < layout.together; ++c)
      to[c] = from[(x + window.left) * k.strides.column + c * k.strides.channel];
  }
}

}  // namespace

void take_images(const TakeImages& k, int threads) {
  const Layout layout(k);
  const Tones tones(k, layout);
  parallel_for(k.count, layout.rows_of_image * layout.length(), threads, [&](int64_t first, int64_t last) {
    std::vector<uint8_t> bytes(layout.length());
    for (int64_t i = first; i < last; ++i) {
      const Window window = k.window(k.index[i]);
      const uint8_t* image = k.images + k.index[i] * k.strides.image;
      for (int64_t row = 0; row < layout.rows_of_image; ++row) {
        const int64_t channel = row / k.height, y = row - channel * k.height + window.top;
        const bool inside = y >= 0 && y < k.height;
        gather(k, layout, inside ? image + channel * k.strides.channel + y * k.strides.row : nullptr, window,
               bytes.data());
        normalise(bytes.data(), tones.mean.data() + channel * k.width, tones.deviation.data() + channel * k.width,
                  layout.length(), k.out + (i * layout.rows_of_image + row) * layout.length());
      }
    }
  });
}

}  // namespace lada::cpu
