// The cross entropy of a row with a mixed label against its definition, its gradients by differences, and its edges.
#include <vector>

#include "check.h"
#include "soft_labels/formula.h"

using lada::MixedLabel;

namespace {

using Row = std::vector<double>;

struct Softmax {
  double max = -INFINITY, sum = 0;
};

Softmax softmax_of(const Row& z) {
  Softmax s;
  for (const double value : z) s.max = std::fmax(s.max, value);
  for (const double value : z) s.sum += lada::exp_below_max(value, s.max);
  return s;
}

double loss_of(const Row& z, const MixedLabel<double>& label) {
  const Softmax s = softmax_of(z);
  return lada::soft_cross_entropy_of_row(s.max, s.sum, z[label.a], z[label.b], label);
}

double defined_loss(const Row& z, const MixedLabel<double>& label) {
  double sum = 0;
  for (const double value : z) sum += std::exp(value);
  return std::log(sum) - label.lam * z[label.a] - (1 - label.lam) * z[label.b];
}

void test_loss_and_gradients() {
  const Row z = {0.3, -1.2, 2.5, 0.0};
  for (const MixedLabel<double> label : {MixedLabel<double>{0, 2, 0.3, true}, {1, 1, 0.8, true}, {3, 0, 1.0, true}}) {
    CHECK_NEAR(loss_of(z, label), defined_loss(z, label), 1e-14);
    const Softmax s = softmax_of(z);
    for (size_t c = 0; c < z.size(); ++c) {
      Row above = z, below = z;
      above[c] += 1e-6, below[c] -= 1e-6;
      const double slope = (defined_loss(above, label) - defined_loss(below, label)) / 2e-6;
      const auto number = static_cast<int64_t>(c);
      CHECK_NEAR(lada::soft_cross_entropy_gradient(z[c], s.max, 1 / s.sum, number, label), slope, 1e-8);
    }
  }
}

void test_weights_of_classes() {
  const MixedLabel<float> apart = {0, 2, 0.25f, true}, same = {1, 1, 0.25f, true};
  CHECK(apart.weight(0) == 0.25f && apart.weight(2) == 0.75f && apart.weight(1) == 0);
  CHECK(same.weight(1) == 1);
}

void test_edges() {
  const Row impossible = {0.0, -INFINITY, 1.0};
  CHECK_NEAR(loss_of(impossible, {0, 1, 1.0, true}), std::log(1 + std::exp(1.0)), 1e-14);  // its weight is zero
  CHECK(loss_of(impossible, {0, 1, 0.5, true}) == INFINITY);
  CHECK(std::isnan(loss_of({-INFINITY, -INFINITY}, {0, 1, 0.5, true})));
  CHECK(std::isnan(loss_of({INFINITY, 0.0}, {0, 1, 0.5, true})));
  CHECK(std::isnan(loss_of({0.0, 0.0}, {0, 1, 0.5, false})));  // a class that does not exist
  CHECK(lada::exp_below_max(-INFINITY, 0.0f) == 0 && lada::exp_below_max(0.0, 0.0) == 1);
  CHECK(std::isnan(lada::exp_below_max(NAN, 0.0f)));
}

}  // namespace

int main() {
  test_loss_and_gradients();
  test_weights_of_classes();
  test_edges();
  return finish();
}
