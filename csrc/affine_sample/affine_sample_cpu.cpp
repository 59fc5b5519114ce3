// CPU loops of affine_sample. A block of channels of an image is copied channels-last behind a border of zeros, small
// enough for the cache: a pixel is then one vector load, one that lies outside is a zero of the border, and the inner
// loops have no conditions. The samplings of an output row are computed once for all channels of the block. A block
// belongs to one thread, so gradients need no atomics and are bitwise repeatable.
//
// Few channels under bilinear interpolation have faster loops, those of few_channels.h.
//
// Outputs that are much smaller than the image do not repay the copy. There each output row's pixels are copied for it
// alone, and the gradient of the image is summed plane by plane. Which way is taken hangs on the sizes of image and
// output alone, so that no result depends on the number of threads or on what else is sampled.
#include <stdexcept>
#include <string>
#include <utility>

#include "affine_sample.h"
#include "buffer.h"
#include "few_channels.h"
#include "lanes.h"
#include "storage.h"
#include "unit.h"

namespace lada::cpu {
namespace {

constexpr int kFewLanes = kFewChannels;
template <class A>  // float64 is for checks: one size does
constexpr int kManyLanes = sizeof(A) == 4 ? 16 : kFewLanes;

// Columns of zeros before each row of a copied image, which end the row before as well.
constexpr int kBorder = 2;

// Whether a copy of an image costs less than copies of what each output row reads, of which a pixel costs about four
// times as much. Offsets in a copy have 32 bits.
bool is_copy_repaid(const AffineGeometry& g) {
  const bool offsets_fit = (g.height + 2) * (g.width + kBorder) * kManyLanes<float> < int64_t{1} << 31;
  const int64_t taps = taps_along_axis(g.interpolation);
  return offsets_fit && g.height * g.width <= 4 * taps * taps * g.out_height * g.out_width;
}

// Whether blocks of kManyLanes take less time than blocks of kFewLanes, of which one costs about 2/5.
bool are_channels_many(int64_t channels) { return channels > 8; }

int64_t lanes_of_block(const AffineInputs& in) {
  if (!are_channels_many(in.channels)) return kFewLanes;
  return in.dtype == DType::kFloat64 ? kManyLanes<double> : kManyLanes<float>;
}

int64_t blocks_of(const AffineInputs& in) { return (in.channels + lanes_of_block(in) - 1) / lanes_of_block(in); }

// The copy of a block: rows -1 .. height - 1 of cells -kBorder .. width - 1, and a last cell. Row -1 and the cells
// below 0 are the border. Any two taps of which one lies outside are also side by side here.
template <class A, int kLanes>
class Cells {
 public:
  explicit Cells(const AffineGeometry& g)
      : pitch_((kBorder + g.width) * kLanes),
        count_((g.height + 1) * pitch_ + kLanes),
        cells_(buffer<A>(count_)),
        pixels_{data() + pitch_ + kBorder * kLanes, pitch_, g.height, g.width} {}

  A* data() const { return cells_.get(); }
  int32_t pitch() const { return static_cast<int32_t>(pitch_); }
  void clear() { std::fill_n(data(), count_, A(0)); }

  // The border, and `block` at `from`.
  template <class T>
  void read(ChannelBlock<A, kLanes>& block, const T* from, const Strides& strides) {
    std::fill_n(data(), pitch_ + kBorder * kLanes, A(0));
    for (int64_t y = 1; y < pixels_.height; ++y) std::fill_n(data() + (y + 1) * pitch_, kBorder * kLanes, A(0));
    std::fill_n(data() + count_ - kLanes, kLanes, A(0));
    block.read(from, strides, pixels_);
  }

  template <class T>
  void write(ChannelBlock<A, kLanes>& block, T* to, const Strides& strides, bool streams) const {
    block.write({pixels_.data, pixels_.pitch, pixels_.height, pixels_.width}, to, strides, streams);
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
  void write(ChannelBlock<A, kLanes>& block, T* to, const Strides& strides, int64_t first, bool streams) const {
    block.write({row(0), pitch_, rows_from(first), width_}, to + first * strides.row, strides, streams);
  }

 private:
  int64_t pitch_, most_rows_, all_rows_, width_;
  Buffer<A> lanes_;
};

// Taps of an output row along one axis, tap by tap: what each column's tap adds to the place in the cells, its weight,
// and how the weight grows with the grid coordinate.
template <class A, int kTaps>
struct RowTaps {
  explicit RowTaps(int64_t width)
      : offset(buffer<int32_t>(kTaps * width)), weight(buffer<A>(kTaps * width)), slope(buffer<A>(kTaps * width)) {}
  Buffer<int32_t> offset;
  Buffer<A> weight, slope;
};

// The samplings of one output row. What a column reads is the same for all channels.
template <class A, int kTaps>
struct RowSamplings {
  explicit RowSamplings(const AffineGeometry& g)
      : width(g.out_width), grid_x(buffer<A>(width)), across(width), down(width) {
    const Coordinates<A> x = frame_of<A>(g).x;
    for (int64_t i = 0; i < width; ++i) grid_x[i] = x[i];
  }
  int64_t width;
  Buffer<A> grid_x;
  RowTaps<A, kTaps> across, down;
};

// The same for loops that write: by value, so that the compiler knows that no store changes the pointers.
template <class A, int kTaps>
struct RowView {
  explicit RowView(const RowSamplings<A, kTaps>& row)
      : width(row.width),
        across(row.across.offset.get()),
        down(row.down.offset.get()),
        weight_x(row.across.weight.get()),
        weight_y(row.down.weight.get()),
        slope_x(row.across.slope.get()),
        slope_y(row.down.slope.get()) {}
  int64_t width;
  const int32_t *across, *down;
  const A *weight_x, *weight_y, *slope_x, *slope_y;
};

// Taps across that lie side by side in the cells and are read as one. Only the first of them has an offset.
constexpr int side_by_side(int taps) { return taps == 2 ? 2 : 1; }

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

// The cell of tap i across. Of a pair the second may be the only one inside; if none is, both are border.
template <class A, int kTaps>
LADA_HD int32_t cell_across(const Taps<A, kTaps>& x, int i) {
  if (side_by_side(kTaps) == 1 || x.pixel[0] != kOutside) return x.pixel[i] + kBorder;
  return x.pixel[kTaps - 1] - 1 + kBorder;
}

template <bool kSlopes, class A, int kTaps>
LADA_HD void sample_columns(const A* theta, A grid_y, const Frame<A>& frame, int32_t pitch, int32_t lanes,
                            const RowSamplings<A, kTaps>& row) {
  const int64_t width = row.width;
  const A* __restrict grid_x = row.grid_x.get();
  int32_t* __restrict offset_x = row.across.offset.get(), * __restrict offset_y = row.down.offset.get();
  A* __restrict weight_x = row.across.weight.get(), * __restrict weight_y = row.down.weight.get();
  A* __restrict slope_x = row.across.slope.get(), * __restrict slope_y = row.down.slope.get();
  const A map[6] = {theta[0], theta[1], theta[2], theta[3], theta[4], theta[5]};
#pragma GCC ivdep  // the taps' parts of the arrays do not overlap
  for (int64_t column = 0; column < width; ++column) {
    const Place<A> place = place_of(map, grid_x[column], grid_y, frame);
    const Taps<A, kTaps> x = taps_at<kTaps>(place.x, frame.across), y = taps_at<kTaps>(place.y, frame.down);
#pragma GCC unroll 4
    for (int i = 0; i < kTaps; ++i) {
      const int64_t at = i * width + column;
      if (i % side_by_side(kTaps) == 0) offset_x[at] = cell_across(x, i) * lanes;
      offset_y[at] = (y.pixel[i] + 1) * pitch;
      weight_x[at] = x.weight[i], weight_y[at] = y.weight[i];
      if constexpr (kSlopes) slope_x[at] = x.slope[i], slope_y[at] = y.slope[i];
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

template <class T, int kLanes>
const T* at(const void* data, const Strides& strides, int64_t image, const Unit<kLanes>& unit) {
  return static_cast<const T*>(data) + image * strides.image + unit.first_channel * strides.channel;
}
template <class T, int kLanes>
T* at(void* data, const Strides& strides, int64_t image, const Unit<kLanes>& unit) {
  return static_cast<T*>(data) + image * strides.image + unit.first_channel * strides.channel;
}

// A pixel that a tap reads, as its distance from the image's first.
struct TapPlace {
  int64_t distance;  // 0 outside
  bool inside;
};

// Of all taps of a column, those of a row together. The samplings' offsets are those of rows of one cell, of one lane.
template <class A, int kTaps>
LADA_HD void places_of(const RowView<A, kTaps>& row, int64_t column, int64_t image_width, int64_t row_stride,
                       int64_t column_stride, TapPlace (&places)[kTaps * kTaps]) {
  constexpr int kSide = side_by_side(kTaps);
#pragma GCC unroll 4
  for (int i = 0; i < kTaps; ++i) {
    const int64_t y = row.down[i * row.width + column] - 1;
#pragma GCC unroll 4
    for (int j = 0; j < kTaps; ++j) {
      const int64_t x = row.across[j / kSide * kSide * row.width + column] + j % kSide - kBorder;
      const bool inside = (y >= 0) & (x >= 0) & (x < image_width);
      places[i * kTaps + j] = {inside ? y * row_stride + x * column_stride : 0, inside};
    }
  }
}

// Cells of the pixels that one output row reads, tap by tap of each column.
template <class A, int kLanes, int kTaps>
class RowCells {
  static constexpr int kTapsOfColumn = kTaps * kTaps;

 public:
  explicit RowCells(int64_t width) : count_(count_of(width)), cells_(buffer<A>(count_)) {}
  const A* data() const { return cells_.get(); }
  void clear() const { std::fill_n(cells_.get(), count_, A(0)); }

  // Lanes without a channel stay as they are.
  template <class T>
  void read(const T* from, const Strides& strides, int channels, const Tone<A>* tone, int64_t image_width,
            const RowSamplings<A, kTaps>& samplings) const {
    const RowView<A, kTaps> row(samplings);
    for (int64_t column = 0; column < row.width; ++column) {
      TapPlace places[kTapsOfColumn];
      places_of(row, column, image_width, strides.row, strides.column, places);
      A* cells = cells_.get() + column * kTapsOfColumn * kLanes;
      for (int c = 0; c < channels; ++c)
#pragma GCC unroll 16
        for (int tap = 0; tap < kTapsOfColumn; ++tap) {
          const A pixel = static_cast<A>(from[c * strides.channel + places[tap].distance]);
          cells[tap * kLanes + c] = places[tap].inside ? tone[c].scale * pixel + tone[c].shift : A(0);
        }
    }
  }

  // Lets samplings lead here.
  void set_offsets(const RowSamplings<A, kTaps>& row) const {
    for (int i = 0; i < kTaps; ++i)
      for (int64_t column = 0; column < row.width; ++column) {
        row.across.offset[i * row.width + column] = static_cast<int32_t>(column * kTapsOfColumn + i) * kLanes;
        row.down.offset[i * row.width + column] = i * kTaps * kLanes;
      }
  }

 private:
  // Offsets have 32 bits.
  static int64_t count_of(int64_t width) {
    constexpr int64_t kMost = (int64_t{1} << 31) / (kTapsOfColumn * kLanes) - 1;
    if (width > kMost)
      throw std::length_error("affine_sample: size must have at most " + std::to_string(kMost) +
                              " columns for so large an image, got " + std::to_string(width));
    return width * kTapsOfColumn * kLanes;
  }

  int64_t count_;
  Buffer<A> cells_;
};

// The pixels of a block of channels for samplings: copied all at once, or for each output row where that costs less.
template <class A, int kLanes, int kTaps>
class Source {
 public:
  Source(const AffineInputs& in, bool is_read)
      : in_(in),
        copies_all_(is_read && is_copy_repaid(in.geometry)),
        cells_(copies_all_ ? in.geometry : AffineGeometry{}),
        row_cells_(is_read && !copies_all_ ? in.geometry.out_width : 0) {}

  void open(const Unit<kLanes>& unit) {
    unit_ = unit;
    for (int c = 0; c < unit.channels; ++c) tone_[c] = tone_of<A>(in_.normalization, unit.first_channel + c);
    row_cells_.clear();
    if (!copies_all_) return;
    ChannelBlock<A, kLanes> block(unit.channels, in_.geometry.width);
    for (int c = 0; c < unit.channels; ++c) block.set_tone(c, tone_[c].scale, tone_[c].shift);
    dispatch_image<A>(in_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      cells_.read(block, at<T>(in_.image, in_.image_strides, unit.image, unit), in_.image_strides);
    });
  }

  // Computes a row's samplings and returns the cells that their offsets lead to.
  template <bool kSlopes>
  const A* sample(const A* theta, A grid_y, const Frame<A>& frame, const RowSamplings<A, kTaps>& row) const {
    if (copies_all_) {
      sample_row<kSlopes>(theta, grid_y, frame, cells_.pitch(), kLanes, row);
      return cells_.data();
    }
    sample_row<kSlopes>(theta, grid_y, frame, 1, 1, row);
    dispatch_image<A>(in_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      row_cells_.read(at<T>(in_.image, in_.image_strides, unit_.image, unit_), in_.image_strides, unit_.channels, tone_,
                      in_.geometry.width, row);
    });
    row_cells_.set_offsets(row);
    return row_cells_.data();
  }

 private:
  const AffineInputs& in_;
  const bool copies_all_;
  Cells<A, kLanes> cells_;
  RowCells<A, kLanes, kTaps> row_cells_;
  Unit<kLanes> unit_{0, in_};
  Tone<A> tone_[kLanes];
};

template <int kLanes, class A, int kTaps>
LADA_CLONES void gather_row(const A* cells, const RowSamplings<A, kTaps>& samplings, A* out) {
  constexpr int kSide = side_by_side(kTaps);
  using Side = Lanes<A, kSide * kLanes>;
  const RowView<A, kTaps> row(samplings);
  for (int64_t column = 0; column < row.width; ++column) {
    Lanes<A, kLanes> value{};
#pragma GCC unroll 4
    for (int j = 0; j < kTaps; j += kSide) {
      const A* cell = cells + row.across[j * row.width + column];
      Side lines{};
#pragma GCC unroll 4
      for (int i = 0; i < kTaps; ++i)
        lines.add(row.weight_y[i * row.width + column], Side::load(cell + row.down[i * row.width + column]));
      value.add(row.weight_x[j * row.width + column], lines.template part<0, kLanes>());
      if constexpr (kSide == 2) value.add(row.weight_x[(j + 1) * row.width + column], lines.template part<1, kLanes>());
    }
    value.store(out + column * kLanes);
  }
}

// Where the taps of a column lie in the cells.
template <int kLanes, class A, int kTaps>
LADA_HD void cells_of(const RowView<A, kTaps>& row, int64_t column, int64_t (&cell)[kTaps][kTaps]) {
  constexpr int kSide = side_by_side(kTaps);
#pragma GCC unroll 4
  for (int i = 0; i < kTaps; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kTaps; ++j)
      cell[i][j] = static_cast<int64_t>(row.down[i * row.width + column]) +
                   row.across[j / kSide * kSide * row.width + column] + j % kSide * kLanes;
}

template <int kLanes, class A, int kTaps>
LADA_HD void scatter_pixel(const A* grad, A* cells, const RowView<A, kTaps>& row, int64_t column) {
  using L = Lanes<A, kLanes>;
  const L go = L::load(grad + column * kLanes);
  int64_t cell[kTaps][kTaps];
  cells_of<kLanes>(row, column, cell);
#pragma GCC unroll 4
  for (int i = 0; i < kTaps; ++i) {
    const L of_line = go * row.weight_y[i * row.width + column];
#pragma GCC unroll 4
    for (int j = 0; j < kTaps; ++j) {
      L total = L::load(cells + cell[i][j]);
      total.add(row.weight_x[j * row.width + column], of_line);
      total.store(cells + cell[i][j]);
    }
  }
}

// Adds a row to the cells of the image gradient. Neighbours add to the same cells, and each addition would wait for the
// one before to reach memory; so the row is worked on at several places in turn.
template <int kLanes, class A, int kTaps>
LADA_CLONES void scatter_row(const A* grad, A* cells, const RowSamplings<A, kTaps>& samplings) {
  constexpr int kPlaces = 4;
  const RowView<A, kTaps> row(samplings);
  const int64_t part = row.width / kPlaces;
  for (int64_t column = 0; column < part; ++column)
#pragma GCC unroll 4
    for (int place = 0; place < kPlaces; ++place) scatter_pixel<kLanes>(grad, cells, row, place * part + column);
  for (int64_t column = kPlaces * part; column < row.width; ++column) scatter_pixel<kLanes>(grad, cells, row, column);
}

// The products of each column's gradient with the pixels it reads, summed over the channels: kTaps * kTaps a column.
template <int kLanes, class A, int kTaps>
LADA_CLONES void dot_row(const A* grad, const A* cells, const RowSamplings<A, kTaps>& samplings, A* dots) {
  using L = Lanes<A, kLanes>;
  const RowView<A, kTaps> row(samplings);
  for (int64_t column = 0; column < row.width; ++column) {
    const L go = L::load(grad + column * kLanes);
    int64_t cell[kTaps][kTaps];
    cells_of<kLanes>(row, column, cell);
#pragma GCC unroll 4
    for (int i = 0; i < kTaps * kTaps; i += 4) {
      Quad<A> product[4];
#pragma GCC unroll 4
      for (int tap = 0; tap < 4; ++tap)
        product[tap] = (go * L::load(cells + cell[(i + tap) / kTaps][(i + tap) % kTaps])).in_quad();
      const Quad<A> sums = sums_of<A>(product);
      std::memcpy(dots + column * kTaps * kTaps + i, &sums, sizeof sums);
    }
  }
}

// d / d (x, y of the samplings' grid coordinates) of each column, summed over rows: once, and times their grid_y.
template <class A>
struct ColumnSums {
  explicit ColumnSums(int64_t columns)
      : width(columns), x(buffer<A>(width)), x_grid(buffer<A>(width)), y(buffer<A>(width)), y_grid(buffer<A>(width)) {}
  void clear() const {
    for (const Buffer<A>* sums : {&x, &x_grid, &y, &y_grid}) std::fill_n(sums->get(), width, A(0));
  }
  int64_t width;
  Buffer<A> x, x_grid, y, y_grid;
};

template <class A, int kTaps>
LADA_CLONES void add_slopes(const A* __restrict dots, const RowSamplings<A, kTaps>& samplings, A grid_y,
                            const ColumnSums<A>& sums) {
  const RowView<A, kTaps> row(samplings);
  A* __restrict x = sums.x.get(), * __restrict x_grid = sums.x_grid.get();
  A* __restrict y = sums.y.get(), * __restrict y_grid = sums.y_grid.get();
#pragma GCC ivdep  // the sums lie apart from all that is read
  for (int64_t column = 0; column < row.width; ++column) {
    A along_x = 0, along_y = 0;
#pragma GCC unroll 4
    for (int j = 0; j < kTaps; ++j) {
      A line = 0, rise = 0;
#pragma GCC unroll 4
      for (int i = 0; i < kTaps; ++i) {
        const A dot = dots[(column * kTaps + i) * kTaps + j];
        line += row.weight_y[i * row.width + column] * dot;
        rise += row.slope_y[i * row.width + column] * dot;
      }
      along_x += row.slope_x[j * row.width + column] * line;
      along_y += row.weight_x[j * row.width + column] * rise;
    }
    x[column] += along_x, x_grid[column] += grid_y * along_x;
    y[column] += along_y, y_grid[column] += grid_y * along_y;
  }
}

template <class A>
void sum_columns(const ColumnSums<A>& sums, const A* grid_x, A* grad_theta) {
  std::fill_n(grad_theta, 6, A(0));
  for (int64_t column = 0; column < sums.width; ++column) {
    const A terms[6] = {sums.x[column] * grid_x[column], sums.x_grid[column], sums.x[column],
                        sums.y[column] * grid_x[column], sums.y_grid[column], sums.y[column]};
    for (int i = 0; i < 6; ++i) grad_theta[i] += terms[i];
  }
}

template <class A, int kLanes, int kTaps>
void sample_units(const AffineSample& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Frame<A> frame = frame_of<A>(g);
  Source<A, kLanes, kTaps> source(in, true);
  const RowSamplings<A, kTaps> samplings(g);
  const Band<A, kLanes> band(g);
  const bool streams = is_large<A>(in.images * in.transforms * in.channels * g.out_height * g.out_width);
  for (int64_t index = begin; index < end; ++index) {
    const Unit<kLanes> unit(index, in);
    ChannelBlock<A, kLanes> result(unit.channels, g.out_width);
    source.open(unit);
    for (int64_t t = unit.image * in.transforms; t < (unit.image + 1) * in.transforms; ++t) {
      const A* theta = static_cast<const A*>(in.theta) + t * 6;
      for (int64_t first = 0; first < g.out_height; first += band.rows_from(first)) {
        for (int64_t y = 0; y < band.rows_from(first); ++y) {
          const A* cells = source.template sample<false>(theta, frame.y[first + y], frame, samplings);
          gather_row<kLanes>(cells, samplings, band.row(y));
        }
        dispatch_result<A>(in, [&](auto tag) {
          using Out = typename decltype(tag)::type;
          band.write(result, at<Out>(k.out, k.out_strides, t, unit), k.out_strides, first, streams);
        });
      }
    }
  }
  end_stream();
}

template <class A, int kLanes, int kTaps>
void sample_units_backward(const AffineSampleBackward& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const bool image = k.grad_image != nullptr, theta = k.grad_theta != nullptr && kTaps > 1;
  const Frame<A> frame = frame_of<A>(g);
  Source<A, kLanes, kTaps> source(in, theta);
  Cells<A, kLanes> grad_cells(image ? g : AffineGeometry{});
  const RowSamplings<A, kTaps> samplings(g);
  const ColumnSums<A> sums(g.out_width);
  const Buffer<A> dots = buffer<A>(kTaps * kTaps * g.out_width);
  Band<A, kLanes> band(g);
  const bool streams = is_large<A>(in.images * in.channels * g.height * g.width);
  for (int64_t index = begin; index < end; ++index) {
    const Unit<kLanes> unit(index, in);
    ChannelBlock<A, kLanes> incoming(unit.channels, g.out_width), outgoing(unit.channels, g.width);
    for (int c = 0; c < unit.channels; ++c)
      outgoing.set_tone(c, tone_of<A>(in.normalization, unit.first_channel + c).scale, 0);
    source.open(unit);
    if (image) grad_cells.clear();
    for (int64_t t = unit.image * in.transforms; t < (unit.image + 1) * in.transforms; ++t) {
      const A* map = static_cast<const A*>(in.theta) + t * 6;
      sums.clear();
      for (int64_t first = 0; first < g.out_height; first += band.rows_from(first)) {
        dispatch_result<A>(in, [&](auto tag) {
          using Out = typename decltype(tag)::type;
          band.read(incoming, at<Out>(k.grad, k.grad_strides, t, unit), k.grad_strides, first);
        });
        for (int64_t y = 0; y < band.rows_from(first); ++y) {
          const A grid_y = frame.y[first + y], *go = band.row(y);
          if constexpr (kTaps > 1)
            if (theta) {
              const A* cells = source.template sample<true>(map, grid_y, frame, samplings);
              dot_row<kLanes>(go, cells, samplings, dots.get());
              add_slopes(dots.get(), samplings, grid_y, sums);
            }
          if (image && !theta) sample_row<false>(map, grid_y, frame, grad_cells.pitch(), kLanes, samplings);
          if (image) scatter_row<kLanes>(go, grad_cells.data(), samplings);
        }
      }
      if (k.grad_theta)
        sum_columns(sums, samplings.grid_x.get(), static_cast<A*>(k.partial) + (t * k.plan.parts + unit.block) * 6);
    }
    if (image)
      dispatch_result<A>(in, [&](auto tag) {
        using In = typename decltype(tag)::type;
        grad_cells.write(outgoing, at<In>(k.grad_image, k.grad_image_strides, unit.image, unit), k.grad_image_strides,
                         streams);
      });
  }
  end_stream();
}

// Adds a row's gradients to the plane of one channel.
template <class A, int kTaps>
void scatter_row_to_plane(const A* grad, const RowSamplings<A, kTaps>& samplings, int64_t image_width, A* plane) {
  const RowView<A, kTaps> row(samplings);
  for (int64_t column = 0; column < row.width; ++column) {
    TapPlace places[kTaps * kTaps];
    places_of(row, column, image_width, image_width, 1, places);
    for (int tap = 0; tap < kTaps * kTaps; ++tap)
      if (places[tap].inside)
        plane[places[tap].distance] += row.weight_x[tap % kTaps * row.width + column] *
                                       (row.weight_y[tap / kTaps * row.width + column] * grad[column]);
  }
}

// The image gradient of planes [begin, end), one channel of one image each, where no image is copied.
template <class A, int kTaps>
void sum_planes(const AffineSampleBackward& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Frame<A> frame = frame_of<A>(g);
  const RowSamplings<A, kTaps> samplings(g);
  const Buffer<A> plane = buffer<A>(g.height * g.width), row = buffer<A>(g.out_width);
  for (int64_t index = begin; index < end; ++index) {
    const Unit<1> unit(index, in);
    std::fill_n(plane.get(), g.height * g.width, A(0));
    dispatch_result<A>(in, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (int64_t t = unit.image * in.transforms; t < (unit.image + 1) * in.transforms; ++t)
        for (int64_t y = 0; y < g.out_height; ++y) {
          convert(at<T>(k.grad, k.grad_strides, t, unit) + y * k.grad_strides.row, k.grad_strides.column, row.get(), 1,
                  g.out_width, A(1), A(0));
          sample_row<false>(static_cast<const A*>(in.theta) + t * 6, frame.y[y], frame, 1, 1, samplings);
          scatter_row_to_plane(row.get(), samplings, g.width, plane.get());
        }
      const Strides& to = k.grad_image_strides;
      const A scale = tone_of<A>(in.normalization, unit.first_channel).scale;
      for (int64_t y = 0; y < g.height; ++y)
        convert(plane.get() + y * g.width, 1, at<T>(k.grad_image, to, unit.image, unit) + y * to.row, to.column,
                g.width, scale, A(0));
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

// Pixels that are copied and sampled for one image.
int64_t pixels_of_image(const AffineInputs& in) {
  const AffineGeometry& g = in.geometry;
  return (is_copy_repaid(g) ? g.height * g.width : 0) + in.transforms * g.out_height * g.out_width;
}

// Whether blocks of so many lanes are those of few_channels.h.
template <class A>
constexpr bool has_own_loops(int lanes, int taps) {
  return std::is_same_v<A, float> && lanes == kFewChannels && taps == 2;
}

}  // namespace

void plan_affine_sample_backward(const AffineSamplePlanning& k, int) { k.plan->parts = blocks_of(k.in); }

void affine_sample(const AffineSample& k, int threads) {
  const AffineInputs& in = k.in;
  if (in.channels == 0) return;
  dispatch_arithmetic_and_taps(in, [&](auto tag, auto taps) {
    using A = typename decltype(tag)::type;
    dispatch_lanes<A>(in, [&](auto lanes) {
      balanced_for(in.images * blocks_of(in), pixels_of_image(in) * lanes(), threads, [&](int64_t begin, int64_t end) {
        if constexpr (has_own_loops<A>(lanes(), taps()))
          if (is_copy_repaid(in.geometry)) return sample_few_channels(k, begin, end);
        sample_units<A, lanes(), taps()>(k, begin, end);
      });
    });
  });
}

void affine_sample_backward(const AffineSampleBackward& k, int threads) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const bool copies = is_copy_repaid(g);
  AffineSampleBackward of_blocks = k;
  if (!copies) of_blocks.grad_image = nullptr;
  dispatch_arithmetic_and_taps(in, [&](auto tag, auto taps) {
    using A = typename decltype(tag)::type;
    if (of_blocks.grad_image || of_blocks.grad_theta)
      dispatch_lanes<A>(in, [&](auto lanes) {
        const int64_t cost = 2 * pixels_of_image(in) * lanes();
        balanced_for(in.images * blocks_of(in), cost, threads, [&](int64_t begin, int64_t end) {
          if constexpr (has_own_loops<A>(lanes(), taps()))
            if (copies) return sample_few_channels_backward(of_blocks, begin, end);
          sample_units_backward<A, lanes(), taps()>(of_blocks, begin, end);
        });
      });
    if (k.grad_image && !copies)
      balanced_for(in.images * in.channels, g.height * g.width, threads,
                   [&](int64_t begin, int64_t end) { sum_planes<A, taps()>(k, begin, end); });
    if (k.grad_theta && k.plan.parts != 1) sum_parts<A>(k);
  });
}

}  // namespace lada::cpu
