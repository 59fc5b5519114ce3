// What a broken kernel declares of itself: one template for both versions, the wrong and the right one.
#pragma once
#include <string>
#include <vector>

struct Shape {
  unsigned blocks = 1, threads = 64;
  size_t inputs = 64, outputs = 64;  // floats; the inputs are 0, 1, 2, ...
};

struct Case {
  std::string name;
  Shape shape;
  void (*broken)(const float*, float*, int);
  void (*correct)(const float*, float*, int);
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

struct Register {
  explicit Register(Case c) { cases().push_back(std::move(c)); }
};

// CASE(kernel, detector, report, shape): `detector` must print `report` on the broken version, all accept the other.
#define CASE(kernel, detector, report, ...) \
  static const Register register_##kernel({#kernel, Shape{__VA_ARGS__}, &kernel<true>, &kernel<false>});
