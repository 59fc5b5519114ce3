// What the CPU loops of Eq. 13 share: tiles of any number of classes, and rows of a pool as a tile.
#pragma once
#include <memory>
#include <vector>

#include "../scores/lanes.h"

namespace lada::cpu {

constexpr int64_t kCostOfExp = 4;  // of a logit, in elements read or written

// Whether a pool has so many rows that the ends of pairs are scored pair by pair, not row by row.
inline bool ends_by_pair(int64_t rows, int64_t pairs) { return rows > pairs; }

// Pairs have no margins.
template <class F>
void dispatch_pair_score(Score score, F&& f) {
  score == Score::kEntropy ? f(ScoreTag<Score::kEntropy>{}) : f(ScoreTag<Score::kVariationRatio>{});
}

// Tiles of any number of classes for one thread.
template <class A>
class Workspace {
 public:
  Workspace(int count, int64_t classes)
      : size(classes * kRowLanes<A>), tiles_(static_cast<size_t>(count * size) + kLine) {
    void* first = tiles_.data();
    size_t space = tiles_.size() * sizeof(A);
    first_ =
        static_cast<A*>(std::align(kLine * sizeof(A), static_cast<size_t>(count * size) * sizeof(A), first, space));
  }
  A* tile(int i) { return first_ + i * size; }

  const int64_t size;

 private:
  static constexpr int kLine = 64 / sizeof(A);  // a tile's vectors are whole lines of the cache
  std::vector<A> tiles_;
  A* first_;
};

// Rows of the pool by number, `step` numbers apart, as a tile: `count` of them, the last repeated.
template <class T>
LADA_CLONES void gather_tile(const T* logits, const int64_t* numbers, int64_t step, int64_t count, int64_t classes,
                             arithmetic_t<T>* tile) {
  TileRows<T> rows;
  for (int l = 0; l < kRowLanes<arithmetic_t<T>>; ++l)
    rows.row[l] = logits + numbers[std::min<int64_t>(l, count - 1) * step] * classes;
  load_tile<T>(rows, classes, tile);
}

// Replaces a tile of logits by factor times the gradient of its scores.
template <Score kScore, class A>
LADA_CLONES void own_gradients(A* tile, A* exps, int64_t classes, const Lane<A>& factor) {
  const LaneStats<A> s = stats_of_tile<kScore>(tile, classes, exps);
  gradient_of_tile<kScore>(tile, exps, classes, s, factor);
}

}  // namespace lada::cpu
