// The ops of Beta(tau, tau) for tensors: checks, allocation, registration. Autograd is ../autograd.cpp.
#include "beta_mix.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>

#include "../common/tensor.h"

namespace lada {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// What the random ops take besides tau, n, key and index.
struct Options {
  bool pathwise, log_tau;

  Options(std::string_view grad, bool log_tau, const char* op) : pathwise(grad == "pathwise"), log_tau(log_tau) {
    TORCH_CHECK_VALUE(pathwise || grad == "implicit", op, ": grad must be 'implicit' or 'pathwise', got '", grad, "'");
  }
};

// The tensors behind a BetaSource, kept alive as long as it is used.
struct Source {
  at::Tensor tau, key, index;
  int64_t samples;
  Options options;

  BetaSource pointers() const {
    return {tau.const_data_ptr(),
            key.const_data_ptr<int64_t>(),
            index.defined() ? index.const_data_ptr<int64_t>() : nullptr,
            tau.size(0),
            samples,
            options.log_tau,
            options.pathwise};
  }
};

Source source_of(const at::Tensor& tau, int64_t samples, const at::Tensor& key, const OptionalTensor& index,
                 Options options, at::ScalarType type, const char* op) {
  check_floating(tau, op, "tau");
  TORCH_CHECK_VALUE(tau.dim() == 1, op, ": tau must have shape (P,), got ", tau.sizes());
  TORCH_CHECK_VALUE(samples >= 0, op, ": n must be at least 0, got ", samples);
  check_int64_vector(key, op, "key", 2, tau, "tau");
  if (index) check_int64_vector(*index, op, "index", tau.size(0), tau, "tau");
  const at::Tensor values = arithmetic(tau, type);
  check_each_tau(values, options.log_tau, op);
  return {values, key.contiguous(), index ? index->contiguous() : at::Tensor(), samples, options};
}

at::Tensor beta_logit_grad(const at::Tensor& x, const at::Tensor& tau) {
  constexpr const char* op = "beta_logit_grad";
  check_floating(x, op, "x");
  check_same(tau, op, "tau", x, "x");
  check_shape(tau, op, "tau", x.sizes());
  const at::ScalarType type = arithmetic_type(x);
  const at::Tensor logits = arithmetic(x, type), taus = arithmetic(tau, type);
  check_each_tau(taus, /*is_log=*/false, op);
  at::Tensor out = fresh(x.sizes(), logits.options());
  run(x, LADA_BACKENDS(beta_logit_gradient),
      BetaLogitGradient{logits.const_data_ptr(), taus.const_data_ptr(), out.mutable_data_ptr(), out.numel(),
                        dtype_of(logits)});
  return out.to(x.scalar_type());
}

at::Tensor beta_sample(const at::Tensor& tau, int64_t n, const at::Tensor& key, const OptionalTensor& index,
                       std::string_view grad, bool log_tau) {
  constexpr const char* op = "beta_sample";
  const Source source = source_of(tau, n, key, index, Options(grad, log_tau, op), arithmetic_type(tau), op);
  at::Tensor lam = fresh({tau.size(0), n}, source.tau.options());
  run(tau, LADA_BACKENDS(beta_sample), BetaSample{source.pointers(), lam.mutable_data_ptr(), dtype_of(source.tau)});
  return lam;
}

at::Tensor beta_sample_backward(const at::Tensor& grad_lam, const at::Tensor& tau, const at::Tensor& key,
                                const OptionalTensor& index, std::string_view grad, bool log_tau) {
  constexpr const char* op = "beta_sample_backward";
  TORCH_CHECK_VALUE(tau.dim() == 1 && grad_lam.dim() == 2 && grad_lam.size(0) == tau.size(0), op,
                    ": grad_lam must have shape (P, n) for tau of shape (P,), got ", grad_lam.sizes(), " and ",
                    tau.sizes());
  check_on_device_of(grad_lam, op, "grad_lam", tau, "tau");
  const Source source =
      source_of(tau, grad_lam.size(1), key, index, Options(grad, log_tau, op), arithmetic_type(tau), op);
  const at::Tensor g = arithmetic(grad_lam, arithmetic_type(tau));
  at::Tensor grad_tau = at::empty(tau.sizes(), source.tau.options());
  run(tau, LADA_BACKENDS(beta_sample_backward),
      BetaSampleBackward{source.pointers(), g.const_data_ptr(), grad_tau.mutable_data_ptr(), dtype_of(source.tau)});
  return grad_tau.to(tau.scalar_type());
}

at::MemoryFormat channels_last_of(const at::Tensor& rows) {
  return rows.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d;
}

// In which order the features of a row lie in memory: channels last where `rows` has it, else as the shape says.
at::MemoryFormat order_of(const at::Tensor& rows) {
  if (rows.dim() != 4 && rows.dim() != 5) return at::MemoryFormat::Contiguous;
  const at::Tensor one = rows.narrow(0, 0, std::min<int64_t>(1, rows.size(0)));
  const at::MemoryFormat last = channels_last_of(rows);
  return !one.is_contiguous() && one.is_contiguous(last) ? last : at::MemoryFormat::Contiguous;
}

// `rows` with each row dense in this order; rows may lie anywhere. A copy is made only where they are not.
at::Tensor dense_rows(const at::Tensor& rows, at::MemoryFormat order) {
  const at::Tensor one = rows.narrow(0, 0, std::min<int64_t>(1, rows.size(0)));
  return one.is_contiguous(order) && rows.stride(0) >= 0 ? rows : rows.contiguous(order);
}

std::vector<int64_t> shape_of_mixed(const at::Tensor& rows, int64_t pairs, int64_t n) {
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] = n;
  shape.insert(shape.begin(), pairs);
  return shape;
}

std::vector<int64_t> shape_of_flat(const at::Tensor& rows, int64_t count) {
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] = count;
  return shape;
}

at::Tensor new_mixed(const at::Tensor& rows, int64_t pairs, int64_t n) {
  const at::Tensor flat = fresh(shape_of_flat(rows, pairs * n), rows.options(), order_of(rows));
  return flat.view(shape_of_mixed(rows, pairs, n));
}

int64_t features_of(const at::Tensor& rows) { return c10::multiply_integers(rows.sizes().slice(1)); }

// The ends of pairs, as tensors: two tensors of rows, or one with the numbers of the rows.
struct EndTensors {
  at::Tensor a, b, pairs;
  at::MemoryFormat order;

  int64_t count() const { return pairs.defined() ? pairs.size(0) : a.size(0); }
  Ends end(const at::Tensor& rows, int64_t column) const {
    return {rows.const_data_ptr(), pairs.defined() ? pairs.const_data_ptr<int64_t>() + column : nullptr, rows.size(0),
            rows.stride(0)};
  }
};

void check_rows(const at::Tensor& rows, const at::Tensor& tau, const char* op, const char* name, const char* shape) {
  check_floating(rows, op, name);
  TORCH_CHECK_VALUE(rows.dim() >= 1, op, ": ", name, " must have shape ", shape, ", got a scalar");
  check_on_device_of(tau, op, "tau", rows, name);
}

EndTensors ends_of(const at::Tensor& a, const at::Tensor& b, const at::Tensor& tau, const char* op) {
  check_rows(a, tau, op, "a", "(P, ...)");
  check_same(b, op, "b", a, "a");
  check_shape(b, op, "b", a.sizes());
  check_shape(tau, op, "tau", {a.size(0)});
  const at::MemoryFormat order = order_of(a);
  return {dense_rows(a, order), dense_rows(b, order), at::Tensor(), order};
}

EndTensors ends_of_pairs(const at::Tensor& h, const at::Tensor& pairs, const at::Tensor& tau, const char* op) {
  check_rows(h, tau, op, "h", "(M, ...)");
  check_pairs(pairs, op, h, "h");
  check_shape(tau, op, "tau", {pairs.size(0)});
  const at::MemoryFormat order = order_of(h);
  const at::Tensor rows = dense_rows(h, order);
  return {rows, rows, pairs.contiguous(), order};
}

// Ends whose features are not read, since they enter the gradient to tau alone: rows like those of grad_mixed, without
// memory.
EndTensors ends_without_features(const OptionalTensor& grad_mixed, int64_t rows, const at::Tensor& pairs,
                                 bool channels_last, const char* op) {
  TORCH_CHECK_VALUE(grad_mixed.has_value(), op, ": grad_mixed must not be None where the features are");
  check_floating(*grad_mixed, op, "grad_mixed");
  TORCH_CHECK_VALUE(grad_mixed->dim() >= 2, op, ": grad_mixed must have shape (P, n, ...), got ", grad_mixed->sizes());
  std::vector<int64_t> shape = grad_mixed->sizes().slice(1).vec();
  shape[0] = rows;
  const at::Tensor like = at::empty({}, grad_mixed->options()).expand(shape);
  if (pairs.defined()) check_pairs(pairs, op, like, "grad_mixed");
  TORCH_CHECK_VALUE(!channels_last || like.dim() == 4 || like.dim() == 5, op, ": rows of shape ", like.sizes(),
                    " have no channels to come last");
  const at::MemoryFormat order = channels_last ? channels_last_of(like) : at::MemoryFormat::Contiguous;
  return {like, like, pairs.defined() ? pairs.contiguous() : pairs, order};
}

void mix_into(const EndTensors& ends, const Source& source, const at::Tensor& mixed, const at::Tensor& lam) {
  run(ends.a, LADA_BACKENDS(beta_mix),
      BetaMix{source.pointers(), ends.end(ends.a, 0), ends.end(ends.b, 1), mixed.mutable_data_ptr(),
              lam.mutable_data_ptr(), features_of(ends.a), dtype_of(ends.a)});
}

using Mixed = std::tuple<at::Tensor, at::Tensor>;

Mixed mix(const EndTensors& ends, const Source& source) {
  const at::Tensor mixed = new_mixed(ends.a, ends.count(), source.samples);
  const at::Tensor lam = at::empty({ends.count(), source.samples}, source.tau.options());
  mix_into(ends, source, mixed, lam);
  return {mixed, lam};
}

void check_out(const at::Tensor& out, const char* op, const char* name, at::IntArrayRef shape, at::ScalarType type,
               const at::Tensor& dense) {
  check_shape(out, op, name, shape);
  TORCH_CHECK_TYPE(out.scalar_type() == type, op, ": ", name, " must have dtype ", type, ", got ", out.scalar_type());
  TORCH_CHECK_VALUE(out.strides() == dense.strides() || out.numel() == 0, op, ": ", name, " must have strides ",
                    dense.strides(), ", got ", out.strides());
}

// Whether the memory from the first to the last element of one meets that of the other.
bool spans_meet(const at::Tensor& x, const at::Tensor& y) {
  if (x.numel() == 0 || y.numel() == 0) return false;
  const auto span = [](const at::Tensor& t) {
    const auto* begin = static_cast<const char*>(t.const_data_ptr());
    return std::pair(begin, begin + at::detail::computeStorageNbytes(t.sizes(), t.strides(), t.element_size()));
  };
  const auto [begin_x, end_x] = span(x);
  const auto [begin_y, end_y] = span(y);
  return begin_x < end_y && begin_y < end_x;
}

// Writes into the caller's tensors, which must look just like the results of the functional op.
void mix_out(const EndTensors& ends, const Source& source, const at::Tensor& mixed, const at::Tensor& lam,
             const char* op) {
  const int64_t pairs = ends.count(), n = source.samples;
  for (const auto* out : {&mixed, &lam})
    TORCH_CHECK(out->device() == ends.a.device(), op, ": out must be on the device of the features (", ends.a.device(),
                "), got ", out->device());
  const at::Tensor like = at::empty({0}, ends.a.options().device(at::kMeta));
  const auto meta = [&](at::IntArrayRef shape) { return at::empty(shape, like.options()); };
  const auto flat = at::empty(shape_of_flat(ends.a, pairs * n), like.options(), ends.order);
  check_out(mixed, op, "mixed", shape_of_mixed(ends.a, pairs, n), ends.a.scalar_type(),
            flat.view(shape_of_mixed(ends.a, pairs, n)));
  check_out(lam, op, "lam", {pairs, n}, source.tau.scalar_type(), meta({pairs, n}));
  for (const auto* out : {&mixed, &lam})
    for (const auto* in : {&ends.a, &ends.b, &source.tau})
      TORCH_CHECK(!spans_meet(*out, *in), op, ": out must not lie in memory of the features or of tau");
  TORCH_CHECK(!spans_meet(mixed, lam), op, ": the two tensors of out must not overlap");
  // what has saved them for a gradient is told
  for (const auto* out : {&mixed, &lam}) out->unsafeGetTensorImpl()->bump_version();
  mix_into(ends, source, mixed, lam);
}

// Rows of more features are cut, so that few pairs of long rows still fill a GPU, or the threads of a CPU.
constexpr int64_t kSlice = 1 << 14;

// The ends of all pairs sorted by their row, in the order of the pairs within a row, and where each row begins.
std::tuple<at::Tensor, at::Tensor> ends_by_row(const at::Tensor& pairs, int64_t rows) {
  const auto [numbers, order] = at::sort(pairs.flatten(), /*stable=*/true, 0, false);
  return {order, at::searchsorted(numbers, at::arange(rows + 1, pairs.options()))};
}

struct Gradients {
  at::Tensor a, b, tau;
};

// `wanted`: the gradients of a, of b (both are one tensor for pairs of rows of h), and of tau.
Gradients mix_backward(const EndTensors& ends, const Source& source, const OptionalTensor& grad_mixed,
                       const OptionalTensor& grad_lam, std::array<bool, 3> wanted, const char* op) {
  const int64_t pairs = ends.count(), n = source.samples, features = features_of(ends.a);
  const int64_t slices = std::max<int64_t>(1, (features + kSlice - 1) / kSlice);
  at::Tensor g, g_lam, order, start, weights, partial;
  if (grad_mixed) {
    check_gradient(*grad_mixed, op, "grad_mixed", shape_of_mixed(ends.a, pairs, n), source.tau, "tau");
    if (grad_mixed->numel() > 0)
      g = grad_mixed->to(ends.a.scalar_type()).reshape(shape_of_flat(ends.a, pairs * n)).contiguous(ends.order);
  }
  if (grad_lam) {
    check_gradient(*grad_lam, op, "grad_lam", {pairs, n}, source.tau, "tau");
    g_lam = arithmetic(*grad_lam, source.tau.scalar_type());
  }
  const auto new_rows = [&](bool is_wanted, const at::Tensor& rows) {
    if (!is_wanted) return no_gradient(rows);
    const at::Tensor out = fresh(rows.sizes(), rows.options(), ends.order);
    return g.defined() ? out : out.zero_();
  };
  const bool by_row = ends.pairs.defined();
  Gradients out;
  out.a = new_rows(wanted[0], ends.a);
  out.b = by_row ? out.a : new_rows(wanted[1], ends.b);
  out.tau = wanted[2] ? at::empty({pairs}, source.tau.options()) : no_gradient(source.tau);
  if (wanted[2]) partial = slices == 1 ? out.tau : at::empty({pairs, slices}, source.tau.options());
  if (by_row && wanted[0] && g.defined()) {
    std::tie(order, start) = ends_by_row(ends.pairs, ends.a.size(0));
    weights = at::empty({pairs, 2, n}, source.tau.options());
  }
  const auto input = [](const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; };
  const auto output = [](bool is_wanted, const at::Tensor& t) {
    return is_wanted && t.defined() ? t.mutable_data_ptr() : nullptr;
  };
  run(ends.a, LADA_BACKENDS(beta_mix_backward),
      BetaMixBackward{source.pointers(), input(g), input(g_lam), ends.end(ends.a, 0), ends.end(ends.b, 1),
                      EndsOfRows{start.defined() ? order.const_data_ptr<int64_t>() : nullptr,
                                 start.defined() ? start.const_data_ptr<int64_t>() : nullptr},
                      output(wanted[0] && g.defined(), out.a), output(wanted[1] && g.defined(), out.b),
                      output(true, weights), output(wanted[2], out.tau), output(true, partial), features, kSlice,
                      slices, dtype_of(ends.a)});
  return out;
}

Mixed beta_mix(const at::Tensor& a, const at::Tensor& b, const at::Tensor& tau, int64_t n, const at::Tensor& key,
               const OptionalTensor& index, std::string_view grad, bool log_tau) {
  constexpr const char* op = "beta_mix";
  const EndTensors ends = ends_of(a, b, tau, op);
  return mix(ends, source_of(tau, n, key, index, Options(grad, log_tau, op), arithmetic_type(a), op));
}

void beta_mix_out(const at::Tensor& a, const at::Tensor& b, const at::Tensor& tau, int64_t n, const at::Tensor& key,
                  const OptionalTensor& index, bool log_tau, at::Tensor mixed, at::Tensor lam) {
  constexpr const char* op = "beta_mix";
  const EndTensors ends = ends_of(a, b, tau, op);
  mix_out(ends, source_of(tau, n, key, index, Options("implicit", log_tau, op), arithmetic_type(a), op), mixed, lam,
          op);
}

Mixed beta_mix_pairs(const at::Tensor& h, const at::Tensor& pairs, const at::Tensor& tau, int64_t n,
                     const at::Tensor& key, const OptionalTensor& index, std::string_view grad, bool log_tau) {
  constexpr const char* op = "beta_mix_pairs";
  const EndTensors ends = ends_of_pairs(h, pairs, tau, op);
  return mix(ends, source_of(tau, n, key, index, Options(grad, log_tau, op), arithmetic_type(h), op));
}

void beta_mix_pairs_out(const at::Tensor& h, const at::Tensor& pairs, const at::Tensor& tau, int64_t n,
                        const at::Tensor& key, const OptionalTensor& index, bool log_tau, at::Tensor mixed,
                        at::Tensor lam) {
  constexpr const char* op = "beta_mix_pairs";
  const EndTensors ends = ends_of_pairs(h, pairs, tau, op);
  mix_out(ends, source_of(tau, n, key, index, Options("implicit", log_tau, op), arithmetic_type(h), op), mixed, lam,
          op);
}

int64_t samples_of(const OptionalTensor& grad_mixed, const OptionalTensor& grad_lam, const char* op) {
  TORCH_CHECK_VALUE(grad_mixed || grad_lam, op, ": grad_mixed and grad_lam must not both be None");
  const at::Tensor& one = grad_mixed ? *grad_mixed : *grad_lam;
  TORCH_CHECK_VALUE(one.dim() >= 2, op, ": ", grad_mixed ? "grad_mixed" : "grad_lam",
                    " must have shape (P, n, ...), got ", one.sizes());
  return one.size(1);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> beta_mix_backward(
    const OptionalTensor& grad_mixed, const OptionalTensor& grad_lam, const OptionalTensor& a, const OptionalTensor& b,
    const at::Tensor& tau, const at::Tensor& key, const OptionalTensor& index, std::string_view grad, bool log_tau,
    std::array<bool, 3> needed, bool channels_last) {
  constexpr const char* op = "beta_mix_backward";
  const int64_t n = samples_of(grad_mixed, grad_lam, op);
  TORCH_CHECK_VALUE(a.has_value() == b.has_value() && (a || !needed[2]), op,
                    ": give both of a and b, or neither if the gradient to tau is not needed");
  const EndTensors ends =
      a ? ends_of(*a, *b, tau, op) : ends_without_features(grad_mixed, tau.numel(), {}, channels_last, op);
  const Source source = source_of(tau, n, key, index, Options(grad, log_tau, op), arithmetic_type(ends.a), op);
  const Gradients out = mix_backward(ends, source, grad_mixed, grad_lam, needed, op);
  return {out.a, out.b, out.tau.to(tau.scalar_type())};
}

Mixed beta_mix_pairs_backward(const OptionalTensor& grad_mixed, const OptionalTensor& grad_lam, const OptionalTensor& h,
                              const at::Tensor& pairs, const at::Tensor& tau, const at::Tensor& key,
                              const OptionalTensor& index, std::string_view grad, bool log_tau,
                              std::array<bool, 2> needed, int64_t rows, bool channels_last) {
  constexpr const char* op = "beta_mix_pairs_backward";
  const int64_t n = samples_of(grad_mixed, grad_lam, op);
  TORCH_CHECK_VALUE(h || !needed[1], op, ": h must not be None if the gradient to tau is needed");
  check_defined(pairs, op, "pairs");
  const EndTensors ends =
      h ? ends_of_pairs(*h, pairs, tau, op) : ends_without_features(grad_mixed, rows, pairs, channels_last, op);
  check_shape(tau, op, "tau", {ends.count()});
  const Source source = source_of(tau, n, key, index, Options(grad, log_tau, op), arithmetic_type(ends.a), op);
  const Gradients out = mix_backward(ends, source, grad_mixed, grad_lam, {needed[0], needed[0], needed[1]}, op);
  return {out.a, out.tau.to(tau.scalar_type())};
}

void implement(torch::Library& m) {
  m.impl("beta_logit_grad", &beta_logit_grad);
  m.impl("beta_sample", &beta_sample);
  m.impl("beta_sample_backward", &beta_sample_backward);
  m.impl("beta_mix", &beta_mix);
  m.impl("beta_mix.out", &beta_mix_out);
  m.impl("beta_mix_backward", &beta_mix_backward);
  m.impl("beta_mix_pairs", &beta_mix_pairs);
  m.impl("beta_mix_pairs.out", &beta_mix_pairs_out);
  m.impl("beta_mix_pairs_backward", &beta_mix_pairs_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(lada_ext, CPU, m) { implement(m); }
TORCH_LIBRARY_IMPL(lada_ext, CUDA, m) { implement(m); }

}  // namespace lada
