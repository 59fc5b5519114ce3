// CPU loops of affine_sample. A block of channels of an image is copied channels-last behind a border of zeros, small
// enough for the cache: a pixel is then one vector load, one that lies outside is a zero of the border, and the inner
// loops have no conditions. The samplings of an output row are computed once for all channels of the block. A block
// belongs to one thread, so gradients need no atomics and are bitwise repeatable.
//
// Outputs that are much smaller than the image do not repay the copy, and few blocks leave threads idle: there the
// loops named `direct` read the image where it lies.
#include <memory>
#include <new>
#include <utility>

#include "affine_sample.h"
#include "lanes.h"

namespace lada::cpu {
namespace {

constexpr int kFewLanes = 4;
template <class A>  // float64 is for checks: one size does
constexpr int kManyLanes = sizeof(A) == 4 ? 16 : kFewLanes;

// Copies of one image's cost against sampled pixels.
bool is_copy_repaid(const AffineGeometry& g, int64_t transforms) {
  const bool offsets_fit = (g.height + 1) * (g.width + 1) * kManyLanes<float> < int64_t{1} << 31;
  return offsets_fit && g.height * g.width <= 4 * transforms * g.out_height * g.out_width;
}

// Whether blocks of kManyLanes take less time than blocks of kFewLanes, of which one costs about 2/5.
bool are_channels_many(int64_t channels) { return channels > 8; }

int64_t lanes_of_block(const AffineInputs& in) {
  if (!are_channels_many(in.channels)) return kFewLanes;
  return in.dtype == DType::kFloat64 ? kManyLanes<double> : kManyLanes<float>;
}

int64_t blocks_of(const AffineInputs& in) { return (in.channels + lanes_of_block(in) - 1) / lanes_of_block(in); }

// Calls f(Tag<type of the result>), among the types whose arithmetic type is A.
template <class A, class F>
void dispatch_result(const AffineInputs& in, F&& f) {
  if constexpr (std::is_same_v<A, double>) return f(Tag<double>{});
  dispatch(in.dtype, [&](auto tag) {
    if constexpr (std::is_same_v<arithmetic_t<typename decltype(tag)::type>, A>) f(tag);
  });
}

// The same with the type of the image.
template <class A, class F>
void dispatch_image(const AffineInputs& in, F&& f) {
  if constexpr (std::is_same_v<A, float>)
    if (in.of_bytes) return f(Tag<uint8_t>{});
  dispatch_result<A>(in, f);
}

// One value of the image, of a result, and into a result: for loops that touch few.
template <class A>
A image_value(const AffineInputs& in, int64_t at) {
  A value = 0;
  dispatch_image<A>(in, [&](auto tag) { value = static_cast<const typename decltype(tag)::type*>(in.image)[at]; });
  return value;
}

template <class A>
A result_value(const AffineInputs& in, const void* data, int64_t at) {
  A value = 0;
  dispatch_result<A>(in, [&](auto tag) { value = static_cast<const typename decltype(tag)::type*>(data)[at]; });
  return value;
}

template <class A>
void set_result_value(const AffineInputs& in, void* data, int64_t at, A value) {
  dispatch_result<A>(in, [&](auto tag) {
    using T = typename decltype(tag)::type;
    static_cast<T*>(data)[at] = static_cast<T>(value);
  });
}

template <class A>
struct CacheLines {
  void operator()(A* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};
template <class A>
using Buffer = std::unique_ptr<A[], CacheLines<A>>;

template <class A>
Buffer<A> buffer(int64_t count) {
  return Buffer<A>(static_cast<A*>(::operator new[](count * sizeof(A), std::align_val_t{64})));
}

// The copy of a block: rows -1 .. height - 1 of cells -1 .. width - 1, where -1 is the border.
template <class A, int kLanes>
class Cells {
 public:
  explicit Cells(const AffineGeometry& g)
      : pitch_((1 + g.width) * kLanes),
        count_((g.height + 1) * pitch_),
        cells_(buffer<A>(count_)),
        pixels_{data() + pitch_ + kLanes, pitch_, g.height, g.width} {}

  A* data() const { return cells_.get(); }
  int32_t pitch() const { return static_cast<int32_t>(pitch_); }
  void clear() { std::fill_n(data(), count_, A(0)); }

  // The border, and `block` at `from`.
  template <class T>
  void read(ChannelBlock<A, kLanes>& block, const T* from, const Strides& strides) {
    std::fill_n(data(), pitch_, A(0));
    for (int64_t y = 0; y < pixels_.height; ++y) std::fill_n(pixels_.data + y * pitch_ - kLanes, kLanes, A(0));
    block.read(from, strides, pixels_);
  }

  template <class T>
  void write(ChannelBlock<A, kLanes>& block, T* to, const Strides& strides) const {
    block.write({pixels_.data, pixels_.pitch, pixels_.height, pixels_.width}, to, strides);
  }

 private:
  int64_t pitch_, count_;
  Buffer<A> cells_;
  LaneRows<A> pixels_;
};

// Some rows of the output in lanes, few enough for the cache.
template <class A, int kLanes>
class Band {
 public:
  static constexpr int64_t kBytes = 1 << 16;
  explicit Band(const AffineGeometry& g)
      : pitch_(g.out_width * kLanes),
        most_rows_(std::clamp<int64_t>(kBytes / (pitch_ * sizeof(A)), 1, g.out_height)),
        all_rows_(g.out_height),
        width_(g.out_width),
        lanes_(buffer<A>(most_rows_ * pitch_)) {}

  int64_t rows_from(int64_t first) const { return std::min(most_rows_, all_rows_ - first); }
  A* row(int64_t row) const { return lanes_.get() + row * pitch_; }

  template <class T>
  void read(ChannelBlock<A, kLanes>& block, const T* from, const Strides& strides, int64_t first) {
    block.read(from + first * strides.row, strides, LaneRows<A>{row(0), pitch_, rows_from(first), width_});
  }
  template <class T>
  void write(ChannelBlock<A, kLanes>& block, T* to, const Strides& strides, int64_t first) const {
    block.write({row(0), pitch_, rows_from(first), width_}, to + first * strides.row, strides);
  }

 private:
  int64_t pitch_, most_rows_, all_rows_, width_;
  Buffer<A> lanes_;
};

// The samplings of one output row, tap by tap: where each tap of each column lies in the cells, its weight, and how the
// weight grows with the grid coordinates.
template <class A, int kTaps>
struct RowSamplings {
  static constexpr int kAll = kTaps * kTaps;
  explicit RowSamplings(const AffineGeometry& g)
      : width(g.out_width),
        grid_x(buffer<A>(width)),
        offset(buffer<int32_t>(kAll * width)),
        weight(buffer<A>(kAll * width)),
        slope_x(buffer<A>(kAll * width)),
        slope_y(buffer<A>(kAll * width)) {
    const Coordinates<A> x = frame_of<A>(g).x;
    for (int64_t i = 0; i < width; ++i) grid_x[i] = x[i];
  }
  int64_t width;
  Buffer<A> grid_x;
  Buffer<int32_t> offset;
  Buffer<A> weight, slope_x, slope_y;
};

// All taps of a position along one axis.
template <class A, int kTaps>
struct Taps {
  int32_t pixel[kTaps];
  A weight[kTaps], slope[kTaps];
};

template <int kTaps, class A>
LADA_HD Taps<A, kTaps> taps_at(Position<A> p, const Axis<A>& axis) {
  Taps<A, kTaps> taps;
#pragma GCC unroll 4
  for (int i = 0; i < kTaps; ++i) {
    const Tap<A> tap = tap_at<kTaps>(p, axis, i);
    taps.pixel[i] = tap.pixel, taps.weight[i] = tap.weight, taps.slope[i] = tap.slope;
  }
  return taps;
}

template <bool kSlopes, class A, int kTaps>
LADA_HD void sample_columns(const A* theta, A grid_y, const Frame<A>& frame, int32_t pitch, int32_t lanes,
                            const RowSamplings<A, kTaps>& row) {
  const int64_t width = row.width;
  const A* __restrict grid_x = row.grid_x.get();
  int32_t* __restrict offset = row.offset.get();
  A* __restrict weight = row.weight.get(), * __restrict slope_x = row.slope_x.get(), * __restrict slope_y = row.slope_y.get();
  const A map[6] = {theta[0], theta[1], theta[2], theta[3], theta[4], theta[5]};
#pragma GCC ivdep  // the taps' parts of the arrays do not overlap
  for (int64_t column = 0; column < width; ++column) {
    const Place<A> place = place_of(map, grid_x[column], grid_y, frame);
    const Taps<A, kTaps> x = taps_at<kTaps>(place.x, frame.across), y = taps_at<kTaps>(place.y, frame.down);
#pragma GCC unroll 16
    for (int tap = 0; tap < kTaps * kTaps; ++tap) {
      const int i = tap / kTaps, j = tap % kTaps;
      const int64_t at = tap * width + column;
      offset[at] = (y.pixel[i] + 1) * pitch + (x.pixel[j] + 1) * lanes;
      weight[at] = y.weight[i] * x.weight[j];
      if constexpr (kSlopes) {
        slope_x[at] = y.weight[i] * x.slope[j];
        slope_y[at] = y.slope[i] * x.weight[j];
      }
    }
  }
}

// Padding is known at compile time, so that the loop has no conditions.
template <bool kSlopes, Padding kPadding, int kTaps>
LADA_CLONES void sample_padded_row(const float* theta, float grid_y, Frame<float> frame, int32_t pitch, int32_t lanes,
                                   const RowSamplings<float, kTaps>& row) {
  frame.across.padding = frame.down.padding = kPadding;
  sample_columns<kSlopes>(theta, grid_y, frame, pitch, lanes, row);
}

template <bool kSlopes, int kTaps>
void sample_row(const float* theta, float grid_y, const Frame<float>& frame, int32_t pitch, int32_t lanes,
                const RowSamplings<float, kTaps>& row) {
  switch (frame.across.padding) {
    case Padding::kZeros:
      return sample_padded_row<kSlopes, Padding::kZeros>(theta, grid_y, frame, pitch, lanes, row);
    case Padding::kBorder:
      return sample_padded_row<kSlopes, Padding::kBorder>(theta, grid_y, frame, pitch, lanes, row);
    case Padding::kReflection:
      return sample_padded_row<kSlopes, Padding::kReflection>(theta, grid_y, frame, pitch, lanes, row);
  }
}

// float64 is for checks, and has one loop.
template <bool kSlopes, int kTaps>
void sample_row(const double* theta, double grid_y, const Frame<double>& frame, int32_t pitch, int32_t lanes,
                const RowSamplings<double, kTaps>& row) {
  sample_columns<kSlopes>(theta, grid_y, frame, pitch, lanes, row);
}

template <int kLanes, class A, int kTaps>
LADA_CLONES void gather_row(const A* cells, const RowSamplings<A, kTaps>& row, A* out) {
  const int32_t* offset = row.offset.get();
  const A* weight = row.weight.get();
  const int64_t width = row.width;
  for (int64_t column = 0; column < width; ++column) {
    Lanes<A, kLanes> value{};
#pragma GCC unroll 16
    for (int tap = 0; tap < kTaps * kTaps; ++tap)
      value.add(weight[tap * width + column], Lanes<A, kLanes>::load(cells + offset[tap * width + column]));
    value.store(out + column * kLanes);
  }
}

// d / d (x, y of the sampling's grid coordinate), times 1 and times the output's grid_x, summed over a row.
template <class A>
struct RowSums {
  A x, x_grid, y, y_grid;
};

// Adds a row to the cells of the image gradient, and sums what the gradient of theta needs.
template <bool kImage, bool kTheta, int kLanes, class A, int kTaps>
LADA_CLONES void scatter_row(const A* grad, const A* cells, A* grad_cells, const RowSamplings<A, kTaps>& row,
                             RowSums<A>& sums) {
  using L = Lanes<A, kLanes>;
  const int32_t* offset = row.offset.get();
  const A *weight = row.weight.get(), *slope_x = row.slope_x.get(), *slope_y = row.slope_y.get();
  const A* grid_x = row.grid_x.get();
  const int64_t width = row.width;
  L x{}, x_grid{}, y{}, y_grid{};
  for (int64_t column = 0; column < width; ++column) {
    const L go = L::load(grad + column * kLanes);
    L along_x{}, along_y{};
#pragma GCC unroll 16
    for (int tap = 0; tap < kTaps * kTaps; ++tap) {
      const int64_t at = tap * width + column;
      if constexpr (kTheta) {
        const L value = L::load(cells + offset[at]);
        along_x.add(slope_x[at], value);
        along_y.add(slope_y[at], value);
      }
      if constexpr (kImage) {
        L total = L::load(grad_cells + offset[at]);
        total.add(weight[at], go);
        total.store(grad_cells + offset[at]);
      }
    }
    if constexpr (kTheta) {
      L product{};
      product.add(go, along_x);
      x.add(A(1), product);
      x_grid.add(grid_x[column], product);
      product = {};
      product.add(go, along_y);
      y.add(A(1), product);
      y_grid.add(grid_x[column], product);
    }
  }
  if constexpr (kTheta) sums = {x.sum(), x_grid.sum(), y.sum(), y_grid.sum()};
}

template <class A>
void add_row_sums(const RowSums<A>& row, A grid_y, A* grad_theta) {
  const A terms[6] = {row.x_grid, row.x * grid_y, row.x, row.y_grid, row.y * grid_y, row.y};
  for (int i = 0; i < 6; ++i) grad_theta[i] += terms[i];
}

// Channels [first, first + kLanes) of the images in one thread's share of (image, block) units.
template <int kLanes>
struct Unit {
  int64_t image, block, first_channel;
  int channels;

  Unit(int64_t index, const AffineInputs& in) {
    const int64_t blocks = (in.channels + kLanes - 1) / kLanes;
    image = index / blocks, block = index % blocks, first_channel = block * kLanes;
    channels = static_cast<int>(std::min<int64_t>(kLanes, in.channels - first_channel));
  }
};

template <class T, int kLanes>
const T* at(const void* data, const Strides& strides, int64_t image, const Unit<kLanes>& unit) {
  return static_cast<const T*>(data) + image * strides.image + unit.first_channel * strides.channel;
}
template <class T, int kLanes>
T* at(void* data, const Strides& strides, int64_t image, const Unit<kLanes>& unit) {
  return static_cast<T*>(data) + image * strides.image + unit.first_channel * strides.channel;
}

template <class A, int kLanes, int kTaps>
void sample_units(const AffineSample& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Frame<A> frame = frame_of<A>(g);
  Cells<A, kLanes> cells(g);
  const RowSamplings<A, kTaps> samplings(g);
  const Band<A, kLanes> band(g);
  for (int64_t index = begin; index < end; ++index) {
    const Unit<kLanes> unit(index, in);
    ChannelBlock<A, kLanes> source(unit.channels, g.width), result(unit.channels, g.out_width);
    for (int c = 0; c < unit.channels; ++c) {
      const Tone<A> tone = tone_of<A>(in.normalization, unit.first_channel + c);
      source.set_tone(c, tone.scale, tone.shift);
    }
    dispatch_image<A>(in, [&](auto tag) {
      using In = typename decltype(tag)::type;
      cells.read(source, at<In>(in.image, in.image_strides, unit.image, unit), in.image_strides);
    });
    for (int64_t t = unit.image * in.transforms; t < (unit.image + 1) * in.transforms; ++t) {
      const A* theta = static_cast<const A*>(in.theta) + t * 6;
      for (int64_t first = 0; first < g.out_height; first += band.rows_from(first)) {
        for (int64_t y = 0; y < band.rows_from(first); ++y) {
          sample_row<false>(theta, frame.y[first + y], frame, cells.pitch(), kLanes, samplings);
          gather_row<kLanes>(cells.data(), samplings, band.row(y));
        }
        dispatch_result<A>(in, [&](auto tag) {
          using Out = typename decltype(tag)::type;
          band.write(result, at<Out>(k.out, k.out_strides, t, unit), k.out_strides, first);
        });
      }
    }
  }
}

template <class A, int kLanes, int kTaps>
void sample_units_backward(const AffineSampleBackward& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const bool image = k.grad_image != nullptr, theta = k.grad_theta != nullptr && kTaps > 1;
  const Frame<A> frame = frame_of<A>(g);
  Cells<A, kLanes> cells(theta ? g : AffineGeometry{}), grad_cells(image ? g : AffineGeometry{});
  const int32_t pitch = theta ? cells.pitch() : grad_cells.pitch();
  const RowSamplings<A, kTaps> samplings(g);
  Band<A, kLanes> band(g);
  for (int64_t index = begin; index < end; ++index) {
    const Unit<kLanes> unit(index, in);
    ChannelBlock<A, kLanes> source(unit.channels, g.width), incoming(unit.channels, g.out_width),
        outgoing(unit.channels, g.width);
    for (int c = 0; c < unit.channels; ++c) {
      const Tone<A> tone = tone_of<A>(in.normalization, unit.first_channel + c);
      source.set_tone(c, tone.scale, tone.shift);
      outgoing.set_tone(c, tone.scale, 0);
    }
    if (theta)
      dispatch_image<A>(in, [&](auto tag) {
        using In = typename decltype(tag)::type;
        cells.read(source, at<In>(in.image, in.image_strides, unit.image, unit), in.image_strides);
      });
    if (image) grad_cells.clear();
    for (int64_t t = unit.image * in.transforms; t < (unit.image + 1) * in.transforms; ++t) {
      A sums[6] = {};
      const A* map = static_cast<const A*>(in.theta) + t * 6;
      for (int64_t first = 0; first < g.out_height; first += band.rows_from(first)) {
        dispatch_result<A>(in, [&](auto tag) {
          using Out = typename decltype(tag)::type;
          band.read(incoming, at<Out>(k.grad, k.grad_strides, t, unit), k.grad_strides, first);
        });
        for (int64_t y = 0; y < band.rows_from(first); ++y) {
          const A grid_y = frame.y[first + y], *go = band.row(y);
          RowSums<A> row{};
          if constexpr (kTaps > 1)
            if (theta) {
              sample_row<true>(map, grid_y, frame, pitch, kLanes, samplings);
              image ? scatter_row<true, true, kLanes>(go, cells.data(), grad_cells.data(), samplings, row)
                    : scatter_row<false, true, kLanes>(go, cells.data(), grad_cells.data(), samplings, row);
              add_row_sums(row, grid_y, sums);
            }
          if (image && !theta) {
            sample_row<false>(map, grid_y, frame, pitch, kLanes, samplings);
            scatter_row<true, false, kLanes>(go, cells.data(), grad_cells.data(), samplings, row);
          }
        }
      }
      if (k.grad_theta) std::copy_n(sums, 6, static_cast<A*>(k.partial) + (t * k.plan.parts + unit.block) * 6);
    }
    if (image)
      dispatch_result<A>(in, [&](auto tag) {
        using In = typename decltype(tag)::type;
        grad_cells.write(outgoing, at<In>(k.grad_image, k.grad_image_strides, unit.image, unit), k.grad_image_strides);
      });
  }
}

// Rows [begin, end) of all sampled images.
template <class A, int kTaps>
void sample_rows_directly(const AffineSample& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Frame<A> frame = frame_of<A>(g);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t t = row / g.out_height, y = row % g.out_height;
    const int64_t image = t / in.transforms * in.image_strides.image;
    const int64_t out = t * k.out_strides.image + y * k.out_strides.row;
    for (int64_t x = 0; x < g.out_width; ++x) {
      const Place<A> place = place_of(static_cast<const A*>(in.theta) + t * 6, frame.x[x], frame.y[y], frame);
      for (int64_t c = 0; c < in.channels; ++c) {
        const Tone<A> tone = tone_of<A>(in.normalization, c);
        A value = nothing<kTaps>(place, frame);
        for_each_pair<kTaps>(place, frame, kTaps, [&](const Tap<A>& row, const Tap<A>& column) {
          const A pixel = image_value<A>(in, image + c * in.image_strides.channel + row.pixel * in.image_strides.row +
                                                 column.pixel * in.image_strides.column);
          value += row.weight * column.weight * (tone.scale * pixel + tone.shift);
        });
        set_result_value(in, k.out, out + c * k.out_strides.channel + x * k.out_strides.column, value);
      }
    }
  }
}

// Planes [begin, end), one channel of one image each.
template <class A, int kTaps>
void sample_planes_backward_directly(const AffineSampleBackward& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Frame<A> frame = frame_of<A>(g);
  const Buffer<A> plane = buffer<A>(k.grad_image ? g.height * g.width : 0);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / in.channels, channel = unit % in.channels;
    const int64_t pixels = image * in.image_strides.image + channel * in.image_strides.channel;
    const Tone<A> tone = tone_of<A>(in.normalization, channel);
    if (k.grad_image) std::fill_n(plane.get(), g.height * g.width, A(0));
    for (int64_t t = image * in.transforms; t < (image + 1) * in.transforms; ++t) {
      A sums[6] = {};
      for (int64_t y = 0; y < g.out_height; ++y) {
        const int64_t grad = t * k.grad_strides.image + channel * k.grad_strides.channel + y * k.grad_strides.row;
        const A grid_y = frame.y[y];
        RowSums<A> row{};
        for (int64_t x = 0; x < g.out_width; ++x) {
          const A go = result_value<A>(in, k.grad, grad + x * k.grad_strides.column), grid_x = frame.x[x];
          const Place<A> place = place_of(static_cast<const A*>(in.theta) + t * 6, grid_x, grid_y, frame);
          A along_x = nothing<kTaps>(place, frame), along_y = along_x;
          for_each_pair<kTaps>(place, frame, kTaps, [&](const Tap<A>& row, const Tap<A>& column) {
            const A pixel =
                image_value<A>(in, pixels + row.pixel * in.image_strides.row + column.pixel * in.image_strides.column);
            const A value = tone.scale * pixel + tone.shift;
            along_x += row.weight * column.slope * value;
            along_y += row.slope * column.weight * value;
            if (k.grad_image) plane[row.pixel * g.width + column.pixel] += row.weight * column.weight * go;
          });
          if constexpr (kTaps > 1) {
            row.x += go * along_x;
            row.x_grid += go * along_x * grid_x;
            row.y += go * along_y;
            row.y_grid += go * along_y * grid_x;
          }
        }
        add_row_sums(row, grid_y, sums);
      }
      if (k.grad_theta) std::copy_n(sums, 6, static_cast<A*>(k.partial) + (t * k.plan.parts + channel) * 6);
    }
    if (k.grad_image)
      dispatch_result<A>(in, [&](auto tag) {
        using In = typename decltype(tag)::type;
        const Strides& to = k.grad_image_strides;
        In* first = static_cast<In*>(k.grad_image) + image * to.image + channel * to.channel;
        for (int64_t y = 0; y < g.height; ++y)
          convert(plane.get() + y * g.width, 1, first + y * to.row, to.column, g.width, tone.scale, A(0));
      });
  }
}

template <class A>
void sum_parts(const AffineSampleBackward& k) {
  const A* partial = static_cast<const A*>(k.partial);
  A* grad_theta = static_cast<A*>(k.grad_theta);
  for (int64_t t = 0; t < k.in.images * k.in.transforms; ++t)
    for (int i = 0; i < 6; ++i) {
      A total = 0;
      for (int64_t part = 0; part < k.plan.parts; ++part) total += partial[(t * k.plan.parts + part) * 6 + i];
      grad_theta[t * 6 + i] = total;
    }
}

// Calls f(Tag<arithmetic type>, taps along an axis), the number as a type.
template <class F>
void dispatch_arithmetic_and_taps(const AffineInputs& in, F&& f) {
  dispatch_arithmetic(in.dtype, [&](auto tag) {
    switch (in.geometry.interpolation) {
      case Interpolation::kNearest:
        return f(tag, std::integral_constant<int, 1>{});
      case Interpolation::kBilinear:
        return f(tag, std::integral_constant<int, 2>{});
      case Interpolation::kBicubic:
        return f(tag, std::integral_constant<int, 4>{});
    }
  });
}

// Calls f(lanes of a block, as a type).
template <class A, class F>
void dispatch_lanes(const AffineInputs& in, F&& f) {
  are_channels_many(in.channels) ? f(std::integral_constant<int, kManyLanes<A>>{})
                                 : f(std::integral_constant<int, kFewLanes>{});
}

}  // namespace

void plan_affine_sample_backward(const AffineSamplePlanning& k, int) {
  const AffineInputs& in = k.in;
  k.plan->parts = is_copy_repaid(in.geometry, in.transforms) ? blocks_of(in) : in.channels;
}

void affine_sample(const AffineSample& k, int threads) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  if (in.channels == 0) return;
  const int64_t rows = in.images * in.transforms * g.out_height, units = in.images * blocks_of(in);
  const bool direct = !is_copy_repaid(g, in.transforms) || (units < threads / 4 && rows > units);
  dispatch_arithmetic_and_taps(in, [&](auto tag, auto taps) {
    using A = typename decltype(tag)::type;
    if (direct)
      return parallel_for(rows, g.out_width * (in.channels + 8), threads,
                          [&](int64_t begin, int64_t end) { sample_rows_directly<A, taps()>(k, begin, end); });
    dispatch_lanes<A>(in, [&](auto lanes) {
      const int64_t cost = (g.height * g.width + in.transforms * g.out_height * g.out_width) * lanes();
      parallel_for(units, cost, threads,
                   [&](int64_t begin, int64_t end) { sample_units<A, lanes(), taps()>(k, begin, end); });
    });
  });
}

void affine_sample_backward(const AffineSampleBackward& k, int threads) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  dispatch_arithmetic_and_taps(in, [&](auto tag, auto taps) {
    using A = typename decltype(tag)::type;
    if (!is_copy_repaid(g, in.transforms))
      parallel_for(in.images * in.channels, g.height * g.width, threads,
                   [&](int64_t begin, int64_t end) { sample_planes_backward_directly<A, taps()>(k, begin, end); });
    else
      dispatch_lanes<A>(in, [&](auto lanes) {
        const int64_t cost = 2 * (g.height * g.width + in.transforms * g.out_height * g.out_width) * lanes();
        parallel_for(in.images * blocks_of(in), cost, threads,
                     [&](int64_t begin, int64_t end) { sample_units_backward<A, lanes(), taps()>(k, begin, end); });
      });
    if (k.grad_theta && k.plan.parts != 1) sum_parts<A>(k);
  });
}

}  // namespace lada::cpu
