// Taps of the spatial transformer, and that every tap of a pixel lies in that pixel's preimage box.
#include <random>

#include "affine_sample/formula.h"
#include "check.h"

using namespace lada;

namespace {

void test_identity_taps_the_pixel_itself() {
  const double identity[6] = {1, 0, 0, 0, 1, 0};
  for (bool align : {false, true}) {
    const AffineGeometry g = {5, 7, 5, 7, Interpolation::kBilinear, Padding::kZeros, align};
    for (int64_t row = 0; row < 5; ++row)
      for (int64_t column = 0; column < 7; ++column) {
        double weight_at_pixel = 0, total = 0;
        for_each_tap(sampling_of(identity, g, row, column),
                     [&](int64_t r, int64_t c, double wy, double wx, double, double) {
                       total += wy * wx;
                       if (r == row && c == column) weight_at_pixel += wy * wx;
                     });
        CHECK_NEAR(weight_at_pixel, 1.0, 1e-12);
        CHECK_NEAR(total, 1.0, 1e-12);
      }
  }
}

void test_reflection_stays_inside_and_mirrors() {
  for (double at = -20; at < 20; at += 0.37) {
    const Position<double> p = reflect<double>({at, 1}, -0.5, 4);
    CHECK(p.at >= -0.5 && p.at <= 3.5);
    const Position<double> mirrored = reflect<double>({-1 - at, 1}, -0.5, 4);
    CHECK_NEAR(mirrored.at, p.at, 1e-12);
  }
}

void test_preimage_boxes_hold_every_tap() {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 400; ++trial) {
    float theta[6];
    for (float& value : theta) value = normal(random) * (trial % 4 == 0 ? 4.0f : 0.7f);
    if (trial % 10 == 0) theta[3] = 2 * theta[0], theta[4] = 2 * theta[1];  // singular
    const AffineGeometry g = {6, 5, 4 + trial % 5, 7, Interpolation::kBilinear, Padding::kZeros, trial % 2 == 0};
    for (int64_t row = 0; row < g.out_height; ++row)
      for (int64_t column = 0; column < g.out_width; ++column)
        for_each_tap(sampling_of(theta, g, row, column), [&](int64_t r, int64_t c, float, float, float, float) {
          const Box box = preimage_box(theta, g, r, c);
          CHECK(box.row_begin <= row && row < box.row_end);
          CHECK(box.column_begin <= column && column < box.column_end);
        });
  }
}

void test_boxes_are_small() {
  const float identity[6] = {1, 0, 0, 0, 1, 0};
  const AffineGeometry g = {64, 64, 64, 64, Interpolation::kBilinear, Padding::kZeros, false};
  const Box box = preimage_box(identity, g, 32, 32);
  CHECK(box.row_end - box.row_begin <= 8);
  CHECK(box.column_end - box.column_begin <= 8);
}

}  // namespace

int main() {
  test_identity_taps_the_pixel_itself();
  test_reflection_stays_inside_and_mirrors();
  test_preimage_boxes_hold_every_tap();
  test_boxes_are_small();
  return finish();
}
