// Taps of the spatial transformer, and that every tap with a weight lies in its pixel's preimage, once and in order.
#include <random>

#include "affine_sample/preimage.h"
#include "check.h"

using namespace lada;

namespace {

constexpr Padding kPaddings[] = {Padding::kZeros, Padding::kBorder, Padding::kReflection};

template <int kTaps>
constexpr Interpolation kInterpolation =
    kTaps == 1 ? Interpolation::kNearest : (kTaps == 2 ? Interpolation::kBilinear : Interpolation::kBicubic);

template <int kTaps>
void test_identity_reads_the_pixel_itself() {
  const double identity[6] = {1, 0, 0, 0, 1, 0};
  for (Padding padding : kPaddings)
    for (bool align : {false, true}) {
      const AffineGeometry g = {5, 7, 5, 7, kInterpolation<kTaps>, padding, align};
      const Frame<double> frame = frame_of<double>(g);
      for (int row = 0; row < 5; ++row)
        for (int column = 0; column < 7; ++column) {
          double of_pixel = 0, total = 0;
          const Place<double> place = place_of(identity, frame.x[column], frame.y[row], frame);
          for_each_pair<kTaps>(place, frame, kTaps, [&](const Tap<double>& y, const Tap<double>& x) {
            total += y.weight * x.weight;
            if (y.pixel == row && x.pixel == column) of_pixel += y.weight * x.weight;
          });
          CHECK_NEAR(of_pixel, 1.0, 1e-12);
          CHECK_NEAR(total, 1.0, 1e-12);
        }
    }
}

// Weights sum to one, slopes to none, and both kinds of version agree.
template <int kTaps>
void test_taps_of_an_axis() {
  const Axis<double> axis = {6, -0.5, 6, Padding::kReflection};
  for (double at = -9; at < 15; at += 0.173) {
    double weight = 0, slope = 0;
    for (int i = 0; i < kTaps; ++i) {
      const Position<double> p = {at, 3};
      const Tap<double> tap = tap_at<kTaps>(p, axis, i), same = tap_at<kAnyTaps>(p, axis, i, kTaps);
      CHECK(tap.pixel == same.pixel && tap.weight == same.weight && tap.slope == same.slope);
      weight += tap.weight, slope += tap.slope;
    }
    CHECK_NEAR(weight, 1.0, 1e-12);
    CHECK_NEAR(slope, 0.0, 1e-12);
  }
}

void test_reflection_stays_inside_and_mirrors() {
  const Axis<double> axis = {4, -0.5, 4, Padding::kReflection};
  for (double at = -20; at < 20; at += 0.37) {
    const Position<double> p = reflect(Position<double>{at, 1}, axis);
    CHECK(p.at >= -0.5 && p.at <= 3.5);
    CHECK(std::abs(p.slope) == 1);
    const Position<double> mirrored = reflect(Position<double>{-1 - at, 1}, axis);
    CHECK_NEAR(mirrored.at, p.at, 1e-12);
    CHECK(mirrored.slope == -p.slope);
  }
}

// Counts, for one input pixel, the visits of each output pixel; -1 where columns do not ascend.
template <int kTaps, class A>
int visits(const A* theta, const AffineGeometry& g, const Frame<A>& frame, int row, int column, int y, int x) {
  const A reach = A(kTaps) / 2;
  const Preimage preimage = preimage_of(theta, g, frame, row, column, reach);
  if (y < preimage.rows.begin || y >= preimage.rows.end) return 0;
  int count = 0, last = -1;
  for_each_column(theta, frame.y[y], frame, preimage.mirrored, column, reach, g.out_width, [&](int at) {
    if (at <= last) count = -1000;
    last = at;
    if (at == x) ++count;
  });
  return count;
}

// Ordinary maps, those that enlarge much, hardly move, collapse an axis or are singular.
template <class A>
void random_map(std::mt19937& random, int trial, A* theta) {
  std::normal_distribution<A> normal;
  const A scales[] = {A(0.7), A(4), A(1e-6), A(300), A(1)};
  for (int i = 0; i < 6; ++i) theta[i] = normal(random) * scales[trial % 5];
  if (trial % 7 == 0) theta[3] = 2 * theta[0], theta[4] = 2 * theta[1];
  if (trial % 11 == 0) theta[0] = theta[1] = 0;
  if (trial % 13 == 0) theta[1] = theta[3] = 0;
}

template <int kTaps, class A>
void test_preimages_hold_every_tap() {
  std::mt19937 random(5);
  for (int trial = 0; trial < 240; ++trial) {
    A theta[6];
    random_map(random, trial, theta);
    const int height = trial % 3 == 0 ? 1 : 6;
    const AffineGeometry g = {height, 5, 4 + trial % 5, 7, kInterpolation<kTaps>, kPaddings[trial % 3], trial % 2 == 0};
    const Frame<A> frame = frame_of<A>(g);
    for (int y = 0; y < g.out_height; ++y)
      for (int x = 0; x < g.out_width; ++x)
        for_each_pair<kTaps>(place_of(theta, frame.x[x], frame.y[y], frame), frame, kTaps,
                             [&](const Tap<A>& row, const Tap<A>& column) {
                               if (row.weight * column.weight != 0)
                                 CHECK((visits<kTaps>(theta, g, frame, row.pixel, column.pixel, y, x) == 1));
                             });
  }
}

template <int kTaps>
void test_taps() {
  test_identity_reads_the_pixel_itself<kTaps>();
  test_taps_of_an_axis<kTaps>();
  test_preimages_hold_every_tap<kTaps, float>();
  test_preimages_hold_every_tap<kTaps, double>();
}

void test_preimages_are_small() {
  const float turned[6] = {0.8f, -0.6f, 0, 0.6f, 0.8f, 0};
  const AffineGeometry g = {64, 64, 64, 64, Interpolation::kBilinear, Padding::kZeros, false};
  const Frame<float> frame = frame_of<float>(g);
  int pixels = 0;
  const Preimage preimage = preimage_of(turned, g, frame, 32, 32, 1.0f);
  for (int y = preimage.rows.begin; y < preimage.rows.end; ++y)
    for_each_column(turned, frame.y[y], frame, preimage.mirrored, 32, 1.0f, 64, [&](int) { ++pixels; });
  CHECK(pixels <= 64);
}

// Positions that are not finite: the whole output is searched, without a cast of what no integer holds.
void test_preimages_of_wild_maps() {
  for (float wild : {NAN, INFINITY, -INFINITY, 1e30f, -1e30f})
    for (Padding padding : kPaddings) {
      const float theta[6] = {wild, 0, 0, 0, 1, wild};
      const AffineGeometry g = {4, 4, 4, 4, Interpolation::kBilinear, padding, false};
      const Frame<float> frame = frame_of<float>(g);
      const Preimage preimage = preimage_of(theta, g, frame, 1, 1, 1.0f);
      CHECK(preimage.rows.begin >= 0 && preimage.rows.end <= 4);
      for (int y = preimage.rows.begin; y < preimage.rows.end; ++y)
        for_each_column(theta, frame.y[y], frame, preimage.mirrored, 1, 1.0f, 4, [](int x) { CHECK(x >= 0 && x < 4); });
    }
}

}  // namespace

int main() {
  test_taps<1>();
  test_taps<2>();
  test_taps<4>();
  test_reflection_stays_inside_and_mirrors();
  test_preimages_are_small();
  test_preimages_of_wild_maps();
  return finish();
}
