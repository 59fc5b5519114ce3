// The loops of few_channels.h. A block of four channels of an image is copied channels-last behind a border of zeros: a
// pixel and its right neighbour are then one vector load, and one offset leads to the four pixels of a sampling, as a
// position far outside is moved to the border. The gradient of the image is summed in a copy that has every pixel
// twice, as the left and as the right one of a pair: samplings side by side then add to different places, none has to
// wait for its neighbour's sum to reach memory, and a pair is added to at once. What a row needs stays in registers and
// the nearest cache.
#include "buffer.h"
#include "few_channels.h"
#include "lanes.h"
#include "storage.h"
#include "unit.h"

namespace lada::cpu {
namespace {

constexpr int kPlanes = kFewChannels;

// Cells of one pixel, and of two.
typedef float Cell __attribute__((vector_size(kPlanes * sizeof(float))));
typedef float Pair __attribute__((vector_size(2 * kPlanes * sizeof(float))));

template <class V>
LADA_HD V load(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class V>
LADA_HD void store(float* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

LADA_HD Pair pair_of(Cell a, Cell b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7); }
// Lane 0 everywhere: one broadcast, where g++ fills a vector of eight times x by seven insertions.
LADA_HD Pair all(float x) { return __builtin_shufflevector(Pair{x}, Pair{x}, 0, 0, 0, 0, 0, 0, 0, 0); }
LADA_HD Cell left(Pair v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
LADA_HD Cell right(Pair v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }
LADA_HD Pair by_pixel(Pair v) { return __builtin_shufflevector(v, v, 0, 4, 2, 6, 1, 5, 3, 7); }
LADA_HD Pair by_plane(Pair v) { return __builtin_shufflevector(v, v, 0, 4, 1, 5, 2, 6, 3, 7); }
LADA_HD Pair lefts(Pair a, Pair b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11); }
LADA_HD Pair rights(Pair a, Pair b) { return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }

// A row of each of four planes.
template <class T>
struct Rows {
  T* row[kPlanes];

  LADA_HD Rows from(int64_t x) const { return {{row[0] + x, row[1] + x, row[2] + x, row[3] + x}}; }
};

template <class T>
struct Planes {
  Plane<T> plane[kPlanes];

  LADA_HD T* row(int i, int64_t y) const { return plane[i].data + y * plane[i].row_stride; }
  LADA_HD Rows<T> rows(int64_t y) const { return {{row(0, y), row(1, y), row(2, y), row(3, y)}}; }
};

// Four pixels from planes to cells, and back.
LADA_HD void read_four(Rows<const float> from, float* cells) {
  const Pair rows_01 = pair_of(load<Cell>(from.row[0]), load<Cell>(from.row[1]));
  const Pair rows_23 = pair_of(load<Cell>(from.row[2]), load<Cell>(from.row[3]));
  const Pair pixels_01 = by_pixel(rows_01), pixels_23 = by_pixel(rows_23);
  store(cells, __builtin_shufflevector(pixels_01, pixels_23, 0, 1, 8, 9, 4, 5, 12, 13));
  store(cells + 2 * kPlanes, __builtin_shufflevector(pixels_01, pixels_23, 2, 3, 10, 11, 6, 7, 14, 15));
}

LADA_HD void write_four(Pair pixels_01, Pair pixels_23, Rows<float> to) {
  const Pair low = __builtin_shufflevector(pixels_01, pixels_23, 0, 8, 1, 9, 4, 12, 5, 13);
  const Pair high = __builtin_shufflevector(pixels_01, pixels_23, 2, 10, 3, 11, 6, 14, 7, 15);
  const Pair rows_01 = by_plane(low), rows_23 = by_plane(high);
  store(to.row[0], left(rows_01)), store(to.row[1], right(rows_01));
  store(to.row[2], left(rows_23)), store(to.row[3], right(rows_23));
}

LADA_HD void read_row(Rows<const float> from, int64_t width, float* cells) {
  int64_t x = 0;
  for (; x + 4 <= width; x += 4) read_four(from.from(x), cells + x * kPlanes);
  for (; x < width; ++x)
    for (int c = 0; c < kPlanes; ++c) cells[x * kPlanes + c] = from.row[c][x];
}

// Calls write(x, rows of the planes from x on) for every four pixels of a row.
template <class Write>
LADA_HD void write_row(Rows<float> to, int64_t width, Write&& write) {
  int64_t x = 0;
  for (; x + 4 <= width; x += 4) write(x, to.from(x));
  if (x == width) return;
  float rest[kPlanes][4];
  write(x, Rows<float>{{rest[0], rest[1], rest[2], rest[3]}});
  for (int64_t i = 0; x + i < width; ++i)
    for (int c = 0; c < kPlanes; ++c) to.row[c][x + i] = rest[c][i];
}

// Cells with a border of zeros: three rows and three columns before the pixels and three rows below; a row's first
// columns end the row before. Two would do for samplings that lie outside; the third lets the last four pixels of a row
// reach beyond it and not into the next. Pairs take twice the lanes. A few cells at the end do this for the last row.
constexpr int kBorder = 3;

class Cells {
 public:
  Cells(const AffineGeometry& g, int lanes)
      : pitch_((kBorder + g.width) * lanes),
        count_((g.height + 2 * kBorder) * pitch_ + (kBorder + 4) * lanes),
        first_(kBorder * (pitch_ + lanes)),
        cells_(buffer<float>(count_)) {
    std::fill_n(cells_.get(), count_, 0.0f);
  }
  int64_t pitch() const { return pitch_; }
  float* border() const { return cells_.get(); }
  float* pixels() const { return cells_.get() + first_; }

 private:
  int64_t pitch_, count_, first_;
  Buffer<float> cells_;
};

LADA_CLONES void read_image(const Planes<const float>& from, int64_t height, int64_t width, float* cells,
                            int64_t pitch) {
  for (int64_t y = 0; y < height; ++y) read_row(from.rows(y), width, cells + y * pitch);
}

// The samplings of an output row: where the upper left pixel lies in the cells, and the weights of the right and the
// lower pixels. There are columns for whole vectors; those beyond the width sample what the last column does.
struct RowSamplings {
  static constexpr int kStep = 16;
  explicit RowSamplings(const AffineGeometry& g)
      : width(g.out_width),
        columns((width + kStep - 1) / kStep * kStep),
        grid_x(buffer<float>(columns)),
        right(buffer<float>(columns + kStep)),
        lower(buffer<float>(columns)),
        slope_x(buffer<float>(columns)),
        slope_y(buffer<float>(columns)),
        offset(buffer<int32_t>(columns)) {
    const Coordinates<float> x = frame_of<float>(g).x;
    for (int64_t i = 0; i < columns; ++i) grid_x[i] = x[std::min(i, width - 1)];
  }
  int64_t width, columns;
  Buffer<float> grid_x, right, lower, slope_x, slope_y;
  Buffer<int32_t> offset;
};

// The place of a first pixel along an axis, counted from the border's first cell. Beyond the border, and for NaN, it is
// the nearest place without pixels.
LADA_HD float place_in_cells(float first, float size) {
  const float raised = first > -kBorder ? first : -static_cast<float>(kBorder);
  return (raised < size ? raised : size) + kBorder;
}

template <bool kSlopes>
LADA_HD void sample_row(const float* theta, float grid_y, const Frame<float>& frame, int64_t pitch,
                        const RowSamplings& samplings) {
  const float map[6] = {theta[0], theta[1], theta[2], theta[3], theta[4], theta[5]};
  const float* __restrict grid_x = samplings.grid_x.get();
  float* __restrict right = samplings.right.get(), * __restrict lower = samplings.lower.get();
  float* __restrict slope_x = samplings.slope_x.get(), * __restrict slope_y = samplings.slope_y.get();
  int32_t* __restrict offset = samplings.offset.get();
  const auto row_of_cells = static_cast<int32_t>(pitch);
  for (int64_t first = 0; first < samplings.columns; first += RowSamplings::kStep)
#pragma GCC ivdep  // the arrays of samplings do not overlap
    for (int64_t column = first; column < first + RowSamplings::kStep; ++column) {
      const Place<float> place = place_of(map, grid_x[column], grid_y, frame);
      const Position<float> x = padded(place.x, frame.across), y = padded(place.y, frame.down);
      const float first_x = std::floor(x.at), first_y = std::floor(y.at);
      right[column] = x.at - first_x, lower[column] = y.at - first_y;
      offset[column] = static_cast<int32_t>(place_in_cells(first_y, frame.down.size)) * row_of_cells +
                       static_cast<int32_t>(place_in_cells(first_x, frame.across.size)) * kPlanes;
      if constexpr (kSlopes) slope_x[column] = x.slope, slope_y[column] = y.slope;
    }
}

// Columns of the last four that lie beyond the width read the border, so that they add nothing to sums.
LADA_HD void end_row(const RowSamplings& s) {
  for (int64_t column = s.width; column % 4 != 0; ++column) {
    s.offset[column] = 0;
    s.right[column] = s.lower[column] = s.slope_x[column] = s.slope_y[column] = 0;
  }
}

LADA_HD Pair gather_line(const float* cell, int64_t pitch, float lower) {
  const Pair below = all(lower);
  return (1 - below) * load<Pair>(cell) + below * load<Pair>(cell + pitch);
}

// Two pixels. `beside`: the weights of the right, for all channels of each.
LADA_HD Pair gather_two(const float* cells, int64_t pitch, const int32_t* offset, const float* lower, Pair beside) {
  const Pair first = gather_line(cells + offset[0], pitch, lower[0]);
  const Pair second = gather_line(cells + offset[1], pitch, lower[1]);
  return (1 - beside) * lefts(first, second) + beside * rights(first, second);
}

LADA_HD void gather_row(const float* cells, int64_t pitch, const RowSamplings& samplings, Rows<float> to) {
  const int32_t* offset = samplings.offset.get();
  const float *right = samplings.right.get(), *lower = samplings.lower.get();
  write_row(to, samplings.width, [=](int64_t x, Rows<float> rows) __attribute__((always_inline)) {
    const Pair beside = load<Pair>(right + x);
    write_four(gather_two(cells, pitch, offset + x, lower + x,
                          __builtin_shufflevector(beside, beside, 0, 0, 0, 0, 1, 1, 1, 1)),
               gather_two(cells, pitch, offset + x + 2, lower + x + 2,
                          __builtin_shufflevector(beside, beside, 2, 2, 2, 2, 3, 3, 3, 3)),
               rows);
  });
}

// Padding is known at compile time, so that the loops have no conditions.
template <Padding kPadding>
LADA_CLONES void sample_image(const float* theta, Frame<float> frame, int64_t height, const float* cells, int64_t pitch,
                              const RowSamplings& samplings, const Planes<float>& out) {
  frame.across.padding = frame.down.padding = kPadding;
  for (int64_t y = 0; y < height; ++y) {
    sample_row<false>(theta, frame.y[y], frame, pitch, samplings);
    gather_row(cells, pitch, samplings, out.rows(y));
  }
}

// The gradient of theta, each entry as four parts.
struct ThetaSums {
  Cell entry[6];
};

// The sums over the cells of four pairs: four left, four right.
LADA_HD Pair sums_of_cells(const Pair (&v)[4]) {
  const auto sums = [](Pair a, Pair b) __attribute__((always_inline)) {
    return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
           __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
  };
  return sums(sums(v[0], v[1]), sums(v[2], v[3]));
}

// Adds the products of each column's gradient with the slopes of what it samples.
LADA_HD void add_slopes(const float* grad, const float* cells, int64_t pitch, const RowSamplings& samplings,
                        float grid_y, ThetaSums& sums) {
  const int32_t* offset = samplings.offset.get();
  const float *right_weight = samplings.right.get(), *lower_weight = samplings.lower.get();
  const float *grid_x = samplings.grid_x.get(), *slope_x = samplings.slope_x.get(), *slope_y = samplings.slope_y.get();
  Cell sum_x{}, sum_x_grid{}, sum_y{}, sum_y_grid{};
  for (int64_t column = 0; column < samplings.width; column += 4) {
    Pair upper_products[4], lower_products[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float* cell = cells + offset[column + i];
      const Cell go = load<Cell>(grad + (column + i) * kPlanes);
      upper_products[i] = pair_of(go, go) * load<Pair>(cell);
      lower_products[i] = pair_of(go, go) * load<Pair>(cell + pitch);
    }
    const Pair upper = sums_of_cells(upper_products), lower = sums_of_cells(lower_products), rise = lower - upper;
    const Cell beside = load<Cell>(right_weight + column), below = load<Cell>(lower_weight + column);
    const Pair line = (1 - pair_of(below, below)) * upper + pair_of(below, below) * lower;
    const Cell x = load<Cell>(slope_x + column) * (right(line) - left(line));
    const Cell y = load<Cell>(slope_y + column) * ((1 - beside) * left(rise) + beside * right(rise));
    const Cell grid = load<Cell>(grid_x + column);
    sum_x += x, sum_x_grid += grid * x, sum_y += y, sum_y_grid += grid * y;
  }
  sums.entry[0] += sum_x_grid, sums.entry[1] += grid_y * sum_x, sums.entry[2] += sum_x;
  sums.entry[3] += sum_y_grid, sums.entry[4] += grid_y * sum_y, sums.entry[5] += sum_y;
}

LADA_HD void scatter_pixel(Cell go, float right, float lower, float* pair, int64_t pitch) {
  const Pair beside = all(right);
  const Pair of_columns = pair_of(go, go) * __builtin_shufflevector(1 - beside, beside, 0, 1, 2, 3, 12, 13, 14, 15);
  store(pair, load<Pair>(pair) + (1 - lower) * of_columns);
  store(pair + pitch, load<Pair>(pair + pitch) + lower * of_columns);
}

// Where the map enlarges, neighbours add to the same pair: so the row is worked on at several places in turn.
LADA_HD void scatter_row(const float* grad, const RowSamplings& samplings, float* pairs, int64_t pitch) {
  constexpr int kPlaces = 4;
  const int32_t* offset = samplings.offset.get();
  const float *right = samplings.right.get(), *lower = samplings.lower.get();
  const int64_t width = samplings.width, part = width / kPlaces;
  const auto scatter = [=](int64_t x) __attribute__((always_inline)) {
    scatter_pixel(load<Cell>(grad + x * kPlanes), right[x], lower[x], pairs + 2 * offset[x], pitch);
  };
  for (int64_t x = 0; x < part; ++x)
#pragma GCC unroll 4
    for (int place = 0; place < kPlaces; ++place) scatter(place * part + x);
  for (int64_t x = kPlaces * part; x < width; ++x) scatter(x);
}

// Where the gradients of an image are summed. `grad`: the cells of a row.
struct Gradients {
  const float* cells;
  int64_t pitch;  // of the cells, half of the pairs'
  float *pairs, *grad;
  ThetaSums theta;
};

template <Padding kPadding, bool kImage, bool kTheta>
LADA_CLONES void add_gradients(const float* theta, Frame<float> frame, int64_t height, const Planes<const float>& grad,
                               const RowSamplings& samplings, Gradients& sums) {
  frame.across.padding = frame.down.padding = kPadding;
  for (int64_t y = 0; y < height; ++y) {
    read_row(grad.rows(y), samplings.width, sums.grad);
    sample_row<kTheta>(theta, frame.y[y], frame, sums.pitch, samplings);
    if constexpr (kTheta) {
      end_row(samplings);
      add_slopes(sums.grad, sums.cells, sums.pitch, samplings, frame.y[y], sums.theta);
    }
    if constexpr (kImage) scatter_row(sums.grad, samplings, sums.pairs, 2 * sums.pitch);
  }
}

// Two pixels as the sums of what they got as left and as right ones, which are cleared. They lie side by side: the
// right one of a pair is the pixel of the next.
LADA_HD Pair take_two(float* pairs) {
  const Pair first = load<Pair>(pairs - kPlanes), second = load<Pair>(pairs + kPlanes);
  store(pairs - kPlanes, Pair{}), store(pairs + kPlanes, Pair{});
  return lefts(first, second) + rights(first, second);
}

// The last four pixels of a row may reach into the border before the next, whose sums nobody wants.
LADA_CLONES void take_gradient(float* pairs, int64_t pitch, int64_t height, int64_t width, const Planes<float>& to) {
  for (int64_t y = 0; y < height; ++y) {
    float* row = pairs + y * pitch;
    write_row(to.rows(y), width, [=](int64_t x, Rows<float> rows) __attribute__((always_inline)) {
      const Pair pixels_01 = take_two(row + 2 * kPlanes * x), pixels_23 = take_two(row + 2 * kPlanes * (x + 2));
      write_four(pixels_01, pixels_23, rows);
    });
  }
}

// A block's channels of an image or a result.
template <class T>
struct Block {
  T* data;
  Strides strides;
  int64_t height, width;
  int channels;
  Tone<float> tone[kPlanes];

  T* channel(int c) const { return data + c * strides.channel; }
  bool is_plain(int c) const {
    return std::is_same_v<std::remove_const_t<T>, float> && strides.column == 1 && tone[c].scale == 1 &&
           tone[c].shift == 0;
  }
};

// Floats of a block's planes, where they do not lie in the tensor as they are; and rows for lanes without a channel.
class Spare {
 public:
  explicit Spare(const AffineGeometry& g)
      : size_(std::max(g.height * g.width, g.out_height * g.out_width)),
        planes_(buffer<float>(kPlanes * size_)),
        zeros_(buffer<float>(g.width + g.out_width)),
        unread_(buffer<float>(g.width + g.out_width)) {
    std::fill_n(zeros_.get(), g.width + g.out_width, 0.0f);
  }

  template <class T>
  Planes<const float> read(const Block<const T>& from) const {
    Planes<const float> planes;
    for (int c = 0; c < kPlanes; ++c) {
      if (c >= from.channels) {
        planes.plane[c] = {zeros_.get(), 0};
      } else if (from.is_plain(c)) {
        planes.plane[c] = {reinterpret_cast<const float*>(from.channel(c)), from.strides.row};
      } else {
        planes.plane[c] = {plane(c), from.width};
        for_each_run(from, [&](int64_t y, int64_t count) {
          convert(from.channel(c) + y * from.strides.row, from.strides.column, plane(c) + y * from.width, 1, count,
                  from.tone[c].scale, from.tone[c].shift);
        });
      }
    }
    return planes;
  }

  // Calls fill(planes) and brings what they then hold to the block.
  template <class T, class Fill>
  void write(const Block<T>& to, Fill&& fill) const {
    Planes<float> planes;
    for (int c = 0; c < kPlanes; ++c) {
      if (c >= to.channels)
        planes.plane[c] = {unread_.get(), 0};
      else if (to.is_plain(c))
        planes.plane[c] = {reinterpret_cast<float*>(to.channel(c)), to.strides.row};
      else
        planes.plane[c] = {plane(c), to.width};
    }
    fill(planes);
    for (int c = 0; c < to.channels; ++c)
      if (!to.is_plain(c))
        for_each_run(to, [&](int64_t y, int64_t count) {
          convert(plane(c) + y * to.width, 1, to.channel(c) + y * to.strides.row, to.strides.column, count,
                  to.tone[c].scale, to.tone[c].shift);
        });
  }

 private:
  // Calls visit(row, pixels) for what lies evenly spaced: each row, or all of them as one.
  template <class T, class Visit>
  static void for_each_run(const Block<T>& block, Visit&& visit) {
    if (block.strides.row == block.width * block.strides.column) return visit(0, block.height * block.width);
    for (int64_t y = 0; y < block.height; ++y) visit(y, block.width);
  }

  float* plane(int c) const { return planes_.get() + c * size_; }

  int64_t size_;
  Buffer<float> planes_, zeros_, unread_;
};

// A unit, and where its planes lie.
struct PlaneUnit : Unit<kPlanes> {
  using Unit<kPlanes>::Unit;

  template <class T>
  Block<T> input(T* data, const Strides& strides, const AffineInputs& in) const {
    Block<T> block = place(data, strides, image, in.geometry.height, in.geometry.width);
    for (int c = 0; c < channels; ++c) block.tone[c] = tone_of<float>(in.normalization, first_channel + c);
    return block;
  }
  // What the image's gradient is written through: it does not know of the mean.
  template <class T>
  Block<T> input_gradient(T* data, const Strides& strides, const AffineInputs& in) const {
    Block<T> block = input(data, strides, in);
    for (Tone<float>& tone : block.tone) tone.shift = 0;
    return block;
  }
  template <class T>
  Block<T> output(T* data, const Strides& strides, int64_t transform, const AffineInputs& in) const {
    return place(data, strides, transform, in.geometry.out_height, in.geometry.out_width);
  }

 private:
  template <class T>
  Block<T> place(T* data, const Strides& strides, int64_t number, int64_t height, int64_t width) const {
    T* first = data + number * strides.image + first_channel * strides.channel;
    return {first, strides, height, width, channels, {{1, 0}, {1, 0}, {1, 0}, {1, 0}}};
  }
};

const float* theta_of(const AffineInputs& in, int64_t transform) {
  return static_cast<const float*>(in.theta) + transform * 6;
}

void read_cells(const AffineInputs& in, const PlaneUnit& unit, const Spare& spare, const Cells& cells) {
  dispatch_image<float>(in, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto planes = spare.read(unit.input(static_cast<const T*>(in.image), in.image_strides, in));
    read_image(planes, in.geometry.height, in.geometry.width, cells.pixels(), cells.pitch());
  });
}

template <Padding kPadding>
void sample_units(const AffineSample& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Frame<float> frame = frame_of<float>(g);
  const Cells cells(g, kPlanes);
  const RowSamplings samplings(g);
  const Spare spare(g);
  for (int64_t index = begin; index < end; ++index) {
    const PlaneUnit unit(index, in);
    read_cells(in, unit, spare, cells);
    for (int64_t t = unit.image * in.transforms; t < (unit.image + 1) * in.transforms; ++t)
      dispatch_result<float>(in, [&](auto tag) {
        using T = typename decltype(tag)::type;
        spare.write(unit.output(static_cast<T*>(k.out), k.out_strides, t, in), [&](const Planes<float>& out) {
          sample_image<kPadding>(theta_of(in, t), frame, g.out_height, cells.border(), cells.pitch(), samplings, out);
        });
      });
  }
}

template <Padding kPadding, bool kImage, bool kTheta>
void sample_units_backward(const AffineSampleBackward& k, int64_t begin, int64_t end) {
  const AffineInputs& in = k.in;
  const AffineGeometry& g = in.geometry;
  const Frame<float> frame = frame_of<float>(g);
  const Cells cells(g, kPlanes), pairs(kImage ? g : AffineGeometry{}, 2 * kPlanes);
  const RowSamplings samplings(g);
  const Spare spare(g);
  const Buffer<float> grad = buffer<float>(samplings.columns * kPlanes);
  std::fill_n(grad.get(), samplings.columns * kPlanes, 0.0f);
  for (int64_t index = begin; index < end; ++index) {
    const PlaneUnit unit(index, in);
    if (kTheta) read_cells(in, unit, spare, cells);
    dispatch_result<float>(in, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (int64_t t = unit.image * in.transforms; t < (unit.image + 1) * in.transforms; ++t) {
        Gradients sums = {cells.border(), cells.pitch(), pairs.border(), grad.get(), {}};
        const auto planes = spare.read(unit.output(static_cast<const T*>(k.grad), k.grad_strides, t, in));
        add_gradients<kPadding, kImage, kTheta>(theta_of(in, t), frame, g.out_height, planes, samplings, sums);
        if constexpr (kTheta)
          for (int i = 0; i < 6; ++i) {
            const Cell& parts = sums.theta.entry[i];
            static_cast<float*>(k.partial)[(t * k.plan.parts + unit.block) * 6 + i] =
                (parts[0] + parts[1]) + (parts[2] + parts[3]);
          }
      }
      if constexpr (kImage)
        spare.write(
            unit.input_gradient(static_cast<T*>(k.grad_image), k.grad_image_strides, in),
            [&](const Planes<float>& to) { take_gradient(pairs.pixels(), pairs.pitch(), g.height, g.width, to); });
    });
  }
}

// Calls f(padding, as a type).
template <class F>
void dispatch_padding(Padding padding, F&& f) {
  switch (padding) {
    case Padding::kZeros:
      return f(std::integral_constant<Padding, Padding::kZeros>{});
    case Padding::kBorder:
      return f(std::integral_constant<Padding, Padding::kBorder>{});
    case Padding::kReflection:
      return f(std::integral_constant<Padding, Padding::kReflection>{});
  }
}

}  // namespace

void sample_few_channels(const AffineSample& k, int64_t begin, int64_t end) {
  dispatch_padding(k.in.geometry.padding, [&](auto padding) { sample_units<padding()>(k, begin, end); });
}

void sample_few_channels_backward(const AffineSampleBackward& k, int64_t begin, int64_t end) {
  dispatch_padding(k.in.geometry.padding, [&](auto padding) {
    if (k.grad_image && k.grad_theta) return sample_units_backward<padding(), true, true>(k, begin, end);
    if (k.grad_image) return sample_units_backward<padding(), true, false>(k, begin, end);
    if (k.grad_theta) return sample_units_backward<padding(), false, true>(k, begin, end);
  });
}

}  // namespace lada::cpu
