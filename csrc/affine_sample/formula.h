// Where an output pixel of the spatial transformer reads its input, and with which weights: the scalar maths of
// F.affine_grid followed by F.grid_sample. A grid coordinate lives in registers and is never stored. The loops over
// columns are compiled to vector instructions, so these functions choose values and never branch.
#pragma once
#include "../common/math.h"

namespace lada {

enum class Interpolation { kNearest, kBilinear, kBicubic };
enum class Padding { kZeros, kBorder, kReflection };

// Pixels that an output pixel reads along one axis.
constexpr int taps_along_axis(Interpolation interpolation) {
  return interpolation == Interpolation::kNearest ? 1 : (interpolation == Interpolation::kBilinear ? 2 : 4);
}

struct AffineGeometry {
  int64_t height, width, out_height, out_width;
  Interpolation interpolation;
  Padding padding;
  bool align_corners;
};

// One axis of the image that is read. Pixel i is at position i; the image spans low .. low + span.
template <class A>
struct Axis {
  A size, low, span;
  Padding padding;
};

// Coordinates of output pixels along one axis: pixel i has first + step * i, in [-1, 1].
template <class A>
struct Coordinates {
  A first, step;

  LADA_HD A operator[](int64_t i) const { return first + step * static_cast<A>(i); }
};

// What the geometry means for positions, in the type of the arithmetic.
template <class A>
struct Frame {
  Axis<A> across, down;
  Coordinates<A> x, y;
};

template <class A>
Frame<A> frame_of(const AffineGeometry& g) {
  const auto axis = [&](int64_t size) {
    return Axis<A>{static_cast<A>(size), g.align_corners ? A(0) : A(-0.5),
                   static_cast<A>(g.align_corners ? size - 1 : size), g.padding};
  };
  const auto coordinates = [&](int64_t size) {
    if (size <= 1) return Coordinates<A>{0, 0};  // affine_grid's choice
    const double span = static_cast<double>(g.align_corners ? size - 1 : size);
    return Coordinates<A>{static_cast<A>(g.align_corners ? -1 : 1 / span - 1), static_cast<A>(2 / span)};
  };
  return {axis(g.width), axis(g.height), coordinates(g.out_width), coordinates(g.out_height)};
}

// A value and its derivative to the grid coordinate it came from.
template <class A>
struct Position {
  A at, slope;
};

// Input position for grid coordinate x in [-1, 1], before padding.
template <class A>
LADA_HD Position<A> position_of(A x, const Axis<A>& axis) {
  const A half = axis.span / 2;
  return {(x + 1) * half + axis.low, half};
}

// To the nearest pixel, where positions outside have no slope. NaN becomes 0, as in torch.
template <class A>
LADA_HD Position<A> clip(Position<A> p, const Axis<A>& axis) {
  const A last = axis.size - 1, raised = p.at > 0 ? p.at : A(0);
  return {raised < last ? raised : last, p.at > 0 && p.at < last ? p.slope : A(0)};
}

// Reflects at low and low + span until the position lies between them. NaN for an axis without extent.
template <class A>
LADA_HD Position<A> reflect(Position<A> p, const Axis<A>& axis) {
  const A distance = std::abs(p.at - axis.low), period = 2 * axis.span;
  const A extra = distance - std::floor(distance / period) * period;
  const bool back = extra > axis.span, mirrored = (p.at < axis.low) != back;
  return {axis.low + (back ? period - extra : extra), mirrored ? -p.slope : p.slope};
}

template <class A>
LADA_HD Position<A> padded(Position<A> p, const Axis<A>& axis) {
  if (axis.padding == Padding::kReflection) p = reflect(p, axis);
  return axis.padding == Padding::kZeros ? p : clip(p, axis);
}

// The pixel at a whole-numbered position, or kOutside.
constexpr int32_t kOutside = -1;

template <class A>
LADA_HD int32_t pixel_at(A position, const Axis<A>& axis) {
  const bool inside = (position >= 0) & (position < axis.size);
  return static_cast<int32_t>(inside ? position : A(kOutside));
}

// One of the kTaps pixels that an output pixel reads along one axis, its weight, and how the weight grows with the grid
// coordinate. A position that is not finite has weights that are NaN, except where padding made a pixel of it.
template <class A>
struct Tap {
  int32_t pixel;
  A weight, slope;
};

// Cubic convolution (Keys, 1981) with the constant of torch and OpenCV, -3/4: the weight of a pixel at a distance in
// [0, 1] or in [1, 2], and its derivative.
template <class A>
LADA_HD A cubic(A x, bool near) {
  return near ? horner(x, A(1), A(0), A(-2.25), A(1.25)) : horner(x, A(3), A(-6), A(3.75), A(-0.75));
}
template <class A>
LADA_HD A cubic_slope(A x, bool near) {
  return near ? horner(x, A(0), A(-4.5), A(3.75)) : horner(x, A(-6), A(7.5), A(-2.25));
}

// Tap i of a position. For bicubic interpolation padding acts on each pixel that is read, else on the position.
template <int kTaps, class A>
LADA_HD Tap<A> tap_at(Position<A> p, const Axis<A>& axis, int i) {
  if (kTaps < 4) p = padded(p, axis);
  if (kTaps == 1) return {pixel_at(std::nearbyint(p.at), axis), A(1), A(0)};
  const A first = std::floor(p.at), rest = p.at - first;
  if (kTaps == 2) return {pixel_at(first + i, axis), i ? rest : 1 - rest, i ? p.slope : -p.slope};
  const bool below = i < 2, near = i == 1 || i == 2;
  const A distance = below ? rest + (1 - i) : (i - 1) - rest;
  const A at = padded({first + (i - 1), A(0)}, axis).at;
  return {pixel_at(at, axis), cubic(distance, near), (below ? p.slope : -p.slope) * cubic_slope(distance, near)};
}

// The number of taps as a template argument that leaves it to run time.
constexpr int kAnyTaps = 0;

template <int kTaps, class A>
LADA_HD Tap<A> tap_at(const Position<A>& p, const Axis<A>& axis, int i, int taps) {
  if constexpr (kTaps != kAnyTaps) return tap_at<kTaps>(p, axis, i);
  return taps == 1 ? tap_at<1>(p, axis, i) : (taps == 2 ? tap_at<2>(p, axis, i) : tap_at<4>(p, axis, i));
}

// Where an output pixel with the coordinates (x, y) reads under theta (2 x 3), before padding.
template <class A>
struct Place {
  Position<A> x, y;
};

template <class A>
LADA_HD Place<A> place_of(const A* theta, A x, A y, const Frame<A>& frame) {
  return {position_of(theta[0] * x + (theta[1] * y + theta[2]), frame.across),
          position_of(theta[3] * x + (theta[4] * y + theta[5]), frame.down)};
}

// What an output pixel starts from: 0, or NaN if its weights are.
template <int kTaps, class A>
LADA_HD A nothing(const Place<A>& place, const Frame<A>& frame, int taps = kTaps) {
  return 0 *
         (tap_at<kTaps>(place.y, frame.down, 0, taps).weight * tap_at<kTaps>(place.x, frame.across, 0, taps).weight);
}

// Calls visit(row's tap, column's tap) for the pairs that the image has.
template <int kTaps, class A, class Visit>
LADA_HD void for_each_pair(const Place<A>& place, const Frame<A>& frame, int taps, Visit&& visit) {
  const int count = kTaps == kAnyTaps ? taps : kTaps;
  LADA_UNROLL(kTaps == kAnyTaps ? 1 : kTaps)
  for (int i = 0; i < count; ++i) {
    const Tap<A> row = tap_at<kTaps>(place.y, frame.down, i, taps);
    LADA_UNROLL(kTaps == kAnyTaps ? 1 : kTaps)
    for (int j = 0; j < count; ++j) {
      const Tap<A> column = tap_at<kTaps>(place.x, frame.across, j, taps);
      if (row.pixel != kOutside && column.pixel != kOutside) visit(row, column);
    }
  }
}

}  // namespace lada
