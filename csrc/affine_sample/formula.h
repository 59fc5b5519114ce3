// Where an output pixel of the spatial transformer reads its input, and with which weights: the scalar maths of
// F.affine_grid followed by F.grid_sample. A grid coordinate lives in registers and is never stored.
#pragma once
#include "../common/math.h"

namespace lada {

enum class Interpolation { kBilinear, kNearest };
enum class Padding { kZeros, kBorder, kReflection };

// Coordinate of output pixel i of `size` in [-1, 1] (affine_grid).
template <class A>
LADA_HD A normalized(int64_t i, int64_t size, bool align_corners) {
  if (size <= 1) return 0;
  return align_corners ? A(2) * i / A(size - 1) - 1 : (A(2) * i + 1) / A(size) - 1;
}

// A value and its derivative to the grid coordinate it came from.
template <class A>
struct Position {
  A at, slope;
};

template <class A>
LADA_HD Position<A> clip(Position<A> p, int64_t size) {
  const A last = static_cast<A>(size - 1);
  if (p.at <= 0) return {0, 0};
  if (p.at >= last) return {last, 0};
  return p;
}

// Reflects at low and high = low + span until the position lies between them.
template <class A>
LADA_HD Position<A> reflect(Position<A> p, A low, A span) {
  if (span <= 0) return {0, 0};
  const A distance = std::abs(p.at - low), sign = p.at < low ? A(-1) : A(1);
  const A flips = std::floor(distance / span), extra = std::fmod(distance, span);
  const bool even = std::fmod(flips, A(2)) == 0;
  return {even ? extra + low : span - extra + low, p.slope * (even ? sign : -sign)};
}

// Input position along an axis of `size` pixels for grid coordinate g in [-1, 1] (grid_sample).
template <class A>
LADA_HD Position<A> input_position(A g, int64_t size, Padding padding, bool align_corners) {
  const A half = static_cast<A>(align_corners ? size - 1 : size) / 2;
  Position<A> p = {align_corners ? (g + 1) * half : (g + 1) * half - A(0.5), half};
  if (padding == Padding::kReflection)
    p = align_corners ? reflect(p, A(0), static_cast<A>(size - 1)) : reflect(p, A(-0.5), static_cast<A>(size));
  return padding == Padding::kZeros ? p : clip(p, size);
}

// The two neighbours of a position along one axis: pixel `first` with weight 1 - upper, first + 1 with weight upper,
// and how the weight of first + 1 grows with the grid coordinate. A neighbour outside the image has no pixel.
template <class A>
struct Neighbours {
  int64_t first;
  A upper, slope;
  bool has_first, has_second, finite;
};

template <class A>
LADA_HD Neighbours<A> neighbours(Position<A> p, int64_t size, Interpolation interpolation) {
  constexpr A kFar = A(1 << 30);
  if (!(p.at > -kFar && p.at < kFar)) {
    const bool finite = p.at > -infinity<A>() && p.at < infinity<A>();
    return {0, 0, 0, false, false, finite};
  }
  const bool nearest = interpolation == Interpolation::kNearest;
  const A floor = nearest ? std::nearbyint(p.at) : std::floor(p.at);
  const auto first = static_cast<int64_t>(floor);
  const bool second = !nearest && first + 1 >= 0 && first + 1 < size;
  return {first, nearest ? A(0) : p.at - floor, nearest ? A(0) : p.slope, first >= 0 && first < size, second, true};
}

// The sampling of one output pixel (row, column) of an (out_height, out_width) image under theta (2 x 3).
template <class A>
struct Sampling {
  Neighbours<A> x, y;
  A grid_x, grid_y;  // normalised coordinates of the output pixel: d(theta row . (grid_x, grid_y, 1)) / d theta

  LADA_HD bool finite() const { return x.finite && y.finite; }
};

struct AffineGeometry {
  int64_t height, width, out_height, out_width;
  Interpolation interpolation;
  Padding padding;
  bool align_corners;
};

template <class A>
LADA_HD Sampling<A> sampling_of(const A* theta, const AffineGeometry& g, int64_t row, int64_t column) {
  const A x = normalized<A>(column, g.out_width, g.align_corners);
  const A y = normalized<A>(row, g.out_height, g.align_corners);
  const A input_x = theta[0] * x + theta[1] * y + theta[2];
  const A input_y = theta[3] * x + theta[4] * y + theta[5];
  return {neighbours(input_position(input_x, g.width, g.padding, g.align_corners), g.width, g.interpolation),
          neighbours(input_position(input_y, g.height, g.padding, g.align_corners), g.height, g.interpolation), x, y};
}

// Calls visit(row, column, weight_y, weight_x, sign_y, sign_x) for the pixels among the four that the image has. The
// weight of a pixel is weight_y * weight_x; sign tells whether its weight along that axis grows with the position.
template <class A, class Visit>
LADA_HD void for_each_tap(const Sampling<A>& s, Visit&& visit) {
  const A lower_y = 1 - s.y.upper, lower_x = 1 - s.x.upper;
  if (s.y.has_first && s.x.has_first) visit(s.y.first, s.x.first, lower_y, lower_x, A(-1), A(-1));
  if (s.y.has_first && s.x.has_second) visit(s.y.first, s.x.first + 1, lower_y, s.x.upper, A(-1), A(1));
  if (s.y.has_second && s.x.has_first) visit(s.y.first + 1, s.x.first, s.y.upper, lower_x, A(1), A(-1));
  if (s.y.has_second && s.x.has_second) visit(s.y.first + 1, s.x.first + 1, s.y.upper, s.x.upper, A(1), A(1));
}

// Output pixels whose sampling can touch an input pixel: all of them, or with zero padding a box around the preimage.
struct Box {
  int64_t row_begin, row_end, column_begin, column_end;
};

LADA_HD int64_t bounded(double value, int64_t size) {
  return value < 0 ? 0 : (value > static_cast<double>(size) ? size : static_cast<int64_t>(value));
}

template <class A>
LADA_HD Box preimage_box(const A* theta, const AffineGeometry& g, int64_t row, int64_t column) {
  const Box everything = {0, g.out_height, 0, g.out_width};
  if (g.padding != Padding::kZeros || g.out_height < 2 || g.out_width < 2) return everything;
  // Input pixel units a unit of normalised coordinate, and output pixel units likewise.
  const double half_w = 0.5 * static_cast<double>(g.align_corners ? g.width - 1 : g.width);
  const double half_h = 0.5 * static_cast<double>(g.align_corners ? g.height - 1 : g.height);
  const double out_w = 0.5 * static_cast<double>(g.align_corners ? g.out_width - 1 : g.out_width);
  const double out_h = 0.5 * static_cast<double>(g.align_corners ? g.out_height - 1 : g.out_height);
  const double origin = g.align_corners ? 0.0 : 0.5;
  const double a = theta[0] * half_w, b = theta[1] * half_w, c = theta[3] * half_h, d = theta[4] * half_h;
  const double determinant = a * d - b * c;
  const double x = static_cast<double>(column) + origin - (1 + theta[2]) * half_w;
  const double y = static_cast<double>(row) + origin - (1 + theta[5]) * half_h;
  const double centre_x = ((d * x - b * y) / determinant + 1) * out_w - origin;
  const double centre_y = ((a * y - c * x) / determinant + 1) * out_h - origin;
  // A pixel reaches one input unit each way; the slack covers the rounding of the forward pass.
  const double reach_x = (std::abs(d) + std::abs(b)) / std::abs(determinant) * out_w * 1.01 + 2;
  const double reach_y = (std::abs(a) + std::abs(c)) / std::abs(determinant) * out_h * 1.01 + 2;
  if (!(reach_x + std::abs(centre_x) < 1e9 && reach_y + std::abs(centre_y) < 1e9)) return everything;
  return {bounded(centre_y - reach_y, g.out_height), bounded(centre_y + reach_y + 1, g.out_height),
          bounded(centre_x - reach_x, g.out_width), bounded(centre_x + reach_x + 1, g.out_width)};
}

}  // namespace lada
