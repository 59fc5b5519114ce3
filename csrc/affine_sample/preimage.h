// Which output pixels can read a given input pixel: what a gradient needs that is gathered instead of scattered, for
// the sake of one order of summation. The position read is linear in the output's row and column, so within a row these
// are intervals of columns: one, or with reflecting padding one for each mirror image of the pixel. Intervals may hold
// a few pixels too many, never too few; every map is handled, also singular ones and those that are not finite.
#pragma once
#include "formula.h"

namespace lada {

// More than the rounding of a position, relative to the terms it is a sum of.
template <class A>
LADA_HD A rounding() {
  return sizeof(A) == 4 ? A(2e-6) : A(1e-14);
}

// Position along one input axis of the output pixel (row, column): origin + across * column + down * row.
template <class A>
struct Line {
  A origin, across, down, error;
};

// `theta`: the three entries of the axis.
template <class A>
LADA_HD Line<A> line_of(const A* theta, const Axis<A>& axis, const Frame<A>& frame) {
  const A half = axis.span / 2;
  return {position_of(theta[0] * frame.x.first + (theta[1] * frame.y.first + theta[2]), axis).at,
          theta[0] * frame.x.step * half, theta[1] * frame.y.step * half,
          rounding<A>() * ((std::abs(theta[0]) + std::abs(theta[1]) + std::abs(theta[2]) + 1) * half + 1)};
}

// An open range of positions; infinite ends are allowed.
template <class A>
struct Range {
  A low, high;

  LADA_HD A middle() const { return (low + high) / 2; }
  LADA_HD A radius() const { return (high - low) / 2; }
  LADA_HD bool is_finite() const { return low > -infinity<A>() && high < infinity<A>(); }
};

template <class A>
LADA_HD Range<A> everywhere() {
  return {-infinity<A>(), infinity<A>()};
}

// Whether reflection changes any position of the output along an axis.
template <class A>
LADA_HD bool reflects(const Line<A>& line, const Axis<A>& axis, const AffineGeometry& g) {
  if (axis.padding != Padding::kReflection) return false;
  const A across = line.across * static_cast<A>(g.out_width - 1), down = line.down * static_cast<A>(g.out_height - 1);
  const A low = line.origin + (across < 0 ? across : A(0)) + (down < 0 ? down : A(0)) - line.error;
  const A high = line.origin + (across > 0 ? across : A(0)) + (down > 0 ? down : A(0)) + line.error;
  return !(low >= axis.low && high <= axis.low + axis.span);
}

// Positions from which mirror image number `mirror` of a pixel is read; 0 is the pixel itself. `reach` is how far a
// position reaches: half the taps.
template <class A>
LADA_HD Range<A> positions_that_read(int32_t pixel, int32_t mirror, const Axis<A>& axis, A reach) {
  const A at = static_cast<A>(pixel), turns = static_cast<A>(mirror);
  const A image = mirror % 2 == 0 ? turns * axis.span + at : (turns + 1) * axis.span + 2 * axis.low - at;
  const bool first = pixel == 0, last = at >= axis.size - 1;
  const bool open = axis.padding == Padding::kBorder || (axis.padding == Padding::kReflection && first && last);
  return {open && first ? -infinity<A>() : image - reach, open && last ? infinity<A>() : image + reach};
}

struct Interval {
  int32_t begin, end;
};

LADA_HD Interval whole(int64_t count) { return {0, static_cast<int32_t>(count)}; }

// The integers of 0 .. count - 1 at which origin + step * i can lie in a range. NaN gives all.
template <class A>
LADA_HD Interval steps_within(Range<A> range, A origin, A step, int64_t count) {
  const A one = (range.low - origin) / step, other = (range.high - origin) / step;
  const A first = one < other ? one : other, last = one < other ? other : one;
  const A size = static_cast<A>(count), margin = 1 + rounding<A>() * size;
  if (!(one == one && other == other)) return whole(count);
  const A begin = clamp(std::floor(first - margin), A(0), size), end = clamp(std::ceil(last + margin) + 1, A(0), size);
  return {static_cast<int32_t>(begin), static_cast<int32_t>(end)};
}

// Rows that hold an output pixel whose position lies in both ranges: by the inverse of the map where that is sound.
template <class A>
LADA_HD Interval rows_within(const Range<A>& range_x, const Line<A>& x, const Range<A>& range_y, const Line<A>& y,
                             int64_t count) {
  const A one = x.across * y.down, other = x.down * y.across, determinant = std::abs(one - other);
  const bool sound = determinant > A(1e-3) * (std::abs(one) + std::abs(other));
  if (!(sound && range_x.is_finite() && range_y.is_finite())) return whole(count);
  const A from_y = x.across * (range_y.middle() - y.origin), from_x = y.across * (range_x.middle() - x.origin);
  const A centre = (from_y - from_x) / (one - other);
  const A reach = (std::abs(x.across) * range_y.radius() + std::abs(y.across) * range_x.radius()) / determinant;
  // the determinant is known to a relative 1e3 * rounding
  const A margin = 2 + A(0.01) * reach + 1000 * rounding<A>() * (std::abs(from_y) + std::abs(from_x)) / determinant;
  const A low = centre - reach - margin, high = centre + reach + margin, size = static_cast<A>(count);
  if (!(low == low && high == high)) return whole(count);
  return {static_cast<int32_t>(clamp(low, A(0), size)), static_cast<int32_t>(clamp(high, A(0), size))};
}

// The mirror images of an axis that one row of the output can read: `count` from number `first` on, in the order in
// which the row's columns meet them; or all of them at once, as one that is everywhere.
template <class A>
struct Mirrors {
  int32_t first, step, count;
  bool everywhere;
};

template <class A>
LADA_HD Mirrors<A> mirrors_of_row(A origin, A across, const Axis<A>& axis, A reach, int64_t out_width) {
  const A end = origin + across * static_cast<A>(out_width - 1);
  const A low = std::floor(((origin < end ? origin : end) - reach - axis.low) / axis.span) - 1;
  const A high = std::floor(((origin < end ? end : origin) + reach - axis.low) / axis.span) + 1;
  const bool countable = low > A(-1e6) && high < A(1e6) && high - low < static_cast<A>(out_width);
  if (!countable) return {0, 1, 1, true};
  const int32_t first = static_cast<int32_t>(low), last = static_cast<int32_t>(high);
  return {across < 0 ? last : first, across < 0 ? -1 : 1, last - first + 1, false};
}

// The output rows that can read an input pixel, and whether they may read mirror images of it.
struct Preimage {
  Interval rows;
  bool mirrored;
};

template <class A>
LADA_HD Preimage preimage_of(const A* theta, const AffineGeometry& g, const Frame<A>& frame, int32_t row,
                             int32_t column, A reach) {
  const Line<A> x = line_of(theta, frame.across, frame), y = line_of(theta + 3, frame.down, frame);
  const bool mirrored = reflects(x, frame.across, g);
  if (mirrored || reflects(y, frame.down, g)) return {whole(g.out_height), mirrored};
  return {rows_within(positions_that_read(column, 0, frame.across, reach + x.error), x,
                      positions_that_read(row, 0, frame.down, reach + y.error), y, g.out_height),
          false};
}

// Calls visit(output column) for the columns of the output row at grid_y that can read the pixel, each once and in
// ascending order.
template <class A, class Visit>
LADA_HD void for_each_column(const A* theta, A grid_y, const Frame<A>& frame, bool mirrored, int32_t column, A reach,
                             int64_t out_width, Visit&& visit) {
  const Axis<A>& axis = frame.across;
  const Line<A> line = line_of(theta, axis, frame);
  const A origin = position_of(theta[0] * frame.x.first + (theta[1] * grid_y + theta[2]), axis).at;
  const Mirrors<A> mirrors =
      mirrored ? mirrors_of_row(origin, line.across, axis, reach + line.error, out_width) : Mirrors<A>{0, 1, 1, false};
  int32_t done = 0;
  for (int32_t i = 0; i < mirrors.count; ++i) {
    const Range<A> range =
        mirrors.everywhere ? everywhere<A>()
                           : positions_that_read(column, mirrors.first + i * mirrors.step, axis, reach + line.error);
    const Interval columns = steps_within(range, origin, line.across, out_width);
    for (int32_t x = columns.begin > done ? columns.begin : done; x < columns.end; ++x) visit(x);
    done = columns.end > done ? columns.end : done;
  }
}

}  // namespace lada
