// Mixtures behind a ReLU: forward and backward agree where one is cut off, and NaN passes both.
#include <initializer_list>

#include "check.h"
#include "relu_mix/formula.h"

namespace {

void test_the_gradient_is_cut_where_the_mixture_is() {
  for (const float lam : {0.0f, 0.1f, 0.5f, 0.7f, 1.0f}) {
    const float values[] = {-3.0f, -0.1f, 0.0f, 0.1f, 1e-20f, 2.0f};
    for (const float a : values)
      for (const float b : values) {
        const float mixed = lada::mixture(lam, 1 - lam, a, b);
        CHECK_NEAR(mixed, double(lam) * a + (1 - double(lam)) * b, 1e-6);
        CHECK(lada::relu(mixed) == (mixed > 0 ? mixed : 0.0f));
        CHECK(lada::relu_gradient(mixed, 5.0f) == (mixed > 0 ? 5.0f : 0.0f));
      }
  }
  CHECK(lada::mixture(1.0f, 0.0f, 2.0f, -7.0f) == 2 && lada::mixture(0.0f, 1.0f, 2.0f, -7.0f) == -7);
}

void test_no_number_passes() {
  CHECK(std::isnan(lada::relu(lada::mixture(NAN, 1.0f, 1.0f, 1.0f))));
  CHECK(std::isnan(lada::relu(lada::mixture(0.5f, 0.5f, 1.0f, static_cast<float>(NAN)))));
  CHECK(lada::relu_gradient(static_cast<float>(NAN), 5.0f) == 5);
}

}  // namespace

int main() {
  test_the_gradient_is_cut_where_the_mixture_is();
  test_no_number_passes();
  return finish();
}
