// take_images on the CPU: rows of bytes are gathered, then turned into floats by one loop that vectorises, several
// short rows at once.
#include <cstring>
#include <vector>

#include "../common/cpu.h"
#include "take_images.h"

namespace lada::cpu {
namespace {

// Results lie in memory as planes of rows: one plane of pixels with all their channels, or one of each channel.
struct Layout {
  int64_t planes, together, length;  // channels that lie together; values of a row
  int64_t rows_of_piece;             // of one plane, that are turned into floats at once

  explicit Layout(const TakeImages& k)
      : planes(k.channels_last ? 1 : k.channels),
        together(k.channels_last ? k.channels : 1),
        length(together * k.width),
        rows_of_piece(clamp<int64_t>(1024 / length, 1, k.height)) {}
  int64_t piece() const { return rows_of_piece * length; }
};

// Mean and deviation for each place of a piece of each plane, so that no piece has to ask for its channel's.
struct Tones {
  std::vector<float> mean, deviation;

  Tones(const TakeImages& k, const Layout& layout) : mean(layout.planes * layout.piece()), deviation(mean.size()) {
    for (size_t i = 0; i < mean.size(); ++i) {
      const int64_t channel = k.channels_last ? i % layout.together : i / layout.piece();
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
  std::memset(bytes, 0, layout.length);
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

// One plane of a result, `from` the stored one, piece by piece by way of `bytes`.
void take_plane(const TakeImages& k, const Layout& layout, const Tones& tones, const Window& window,
                const uint8_t* from, int64_t plane, uint8_t* bytes, float* out) {
  const float *mean = tones.mean.data() + plane * layout.piece(),
              *deviation = tones.deviation.data() + plane * layout.piece();
  for (int64_t first = 0; first < k.height; first += layout.rows_of_piece) {
    const int64_t rows = std::min(layout.rows_of_piece, k.height - first);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t y = first + row + window.top;
      const bool inside = y >= 0 && y < k.height;
      gather(k, layout, inside ? from + y * k.strides.row : nullptr, window, bytes + row * layout.length);
    }
    normalise(bytes, mean, deviation, rows * layout.length, out + first * layout.length);
  }
}

}  // namespace

void take_images(const TakeImages& k, int threads) {
  const Layout layout(k);
  const Tones tones(k, layout);
  const int64_t plane_size = k.height * layout.length;
  parallel_for(k.count, layout.planes * plane_size, threads, [&](int64_t first, int64_t last) {
    std::vector<uint8_t> bytes(layout.piece());
    for (int64_t i = first; i < last; ++i) {
      const Window window = k.window(k.index[i]);
      const uint8_t* image = k.images + k.index[i] * k.strides.image;
      for (int64_t plane = 0; plane < layout.planes; ++plane)
        take_plane(k, layout, tones, window, image + plane * k.strides.channel, plane, bytes.data(),
                   k.out + (i * layout.planes + plane) * plane_size);
    }
  });
}

}  // namespace lada::cpu
