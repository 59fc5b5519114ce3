// CHECK for the C++ tests: reports every failure with its line, and finish() makes the program fail if there was one.
#pragma once
#include <cmath>
#include <cstdio>

inline int failures = 0;

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      ++failures;                                                         \
      std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                     \
  } while (false)

#define CHECK_NEAR(actual, expected, tolerance)                                                \
  do {                                                                                         \
    const double a_ = (actual), e_ = (expected);                                               \
    if (!(std::abs(a_ - e_) <= (tolerance))) {                                                 \
      ++failures;                                                                              \
      std::printf("%s:%d: %s = %.17g, expected %.17g\n", __FILE__, __LINE__, #actual, a_, e_); \
    }                                                                                          \
  } while (false)

inline int finish() {
  if (failures == 0) std::puts("all checks passed");
  return failures == 0 ? 0 : 1;
}
