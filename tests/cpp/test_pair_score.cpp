// What top_pairs and mixed_pair_score decide by: which rows exist, the order of pairs, when a search may stop.
#include "check.h"
#include "pair_score/formula.h"

using lada::RankedPair;

namespace {

void test_rows() {
  CHECK(lada::is_row(0, 1) && lada::is_row(4, 5));
  CHECK(!lada::is_row(-1, 5) && !lada::is_row(5, 5) && !lada::is_row(0, 0));
}

void test_weights_keep_away_from_zero() {
  CHECK(lada::positive_weight(0.0f) > 0 && lada::positive_weight(0.0) > 0);
  CHECK(lada::positive_weight(0.25f) == 0.25f && lada::positive_weight(1.0) == 1.0);
  CHECK(std::isnan(lada::positive_weight(static_cast<float>(NAN))));
  CHECK(lada::positive_weight(0.0f) * -INFINITY == -INFINITY);  // 0 times it would be NaN
}

void test_impossible_classes_have_no_slope() {
  CHECK(lada::slope_to_lam(0.0f, -INFINITY, 1.0f) == 0);
  CHECK(lada::slope_to_lam(2.0, 3.0, 1.0) == 4);
}

void test_order_of_pairs() {
  const RankedPair<float> best = {2, 5, 6}, first = {1, 0, 3}, second = {1, 0, 4}, third = {1, 2, 3};
  CHECK(best.before(first) && first.before(second) && second.before(third) && first.before(third));
  CHECK(!first.before(first) && !third.before(second));
}

void test_when_nothing_better_can_come() {
  const RankedPair<double> threshold = {1, 7, 9};
  CHECK(lada::is_hopeless(0.9, int64_t{0}, threshold));
  CHECK(!lada::is_hopeless(1.1, int64_t{100}, threshold));
  CHECK(lada::is_hopeless(1.0, int64_t{8}, threshold));   // as good, but a later pair
  CHECK(!lada::is_hopeless(1.0, int64_t{7}, threshold));  // it may be (7, 8)
}

void test_scores_within_their_bounds() {
  CHECK(lada::bounded(3.4f, 3.3f) == 3.3f && lada::bounded(-1e-9f, 3.3f) == 0 && lada::bounded(1.0f, 3.3f) == 1.0f);
  CHECK(std::isnan(lada::bounded(static_cast<float>(NAN), 3.3f)));
  CHECK(lada::add_weighted(1.0, 0.5, 4.0) == 3);
}

}  // namespace

int main() {
  test_rows();
  test_weights_keep_away_from_zero();
  test_impossible_classes_have_no_slope();
  test_order_of_pairs();
  test_when_nothing_better_can_come();
  test_scores_within_their_bounds();
  return finish();
}
