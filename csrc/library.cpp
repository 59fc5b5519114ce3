// Every op of lada_ext on one page: its schema and its tags. All are functional but the two `.out` overloads; a
// backward pass is an op of its own. The meaning of each op is its entry in lada_ext/reference.py.
#include <torch/library.h>

TORCH_LIBRARY(lada_ext, m) {
  const std::vector<at::Tag> pure = {at::Tag::pt2_compliant_tag};
  // On CUDA the last bits may differ from call to call, unless torch.use_deterministic_algorithms(True): atomicAdd in
  // affine_sample's image gradient, ATen's index_add_ in indexed_pair_score's gradient to `own`.
  const std::vector<at::Tag> atomic = {at::Tag::pt2_compliant_tag, at::Tag::nondeterministic_bitwise};

  m.def("entropy(Tensor logits, float base=2.0) -> Tensor", pure);
  m.def("entropy_backward(Tensor grad, Tensor logits, float base) -> Tensor", pure);
  m.def("variation_ratio(Tensor logits) -> Tensor", pure);
  m.def("variation_ratio_backward(Tensor grad, Tensor logits) -> Tensor", pure);
  m.def("margin(Tensor logits) -> Tensor", pure);
  m.def("margin_backward(Tensor grad, Tensor logits) -> Tensor", pure);
  m.def("bald(Tensor logits, float base=2.0) -> Tensor", pure);
  m.def("bald_backward(Tensor grad, Tensor logits, float base) -> Tensor", pure);
  m.def("top_k(Tensor scores, SymInt k) -> (Tensor, Tensor)", pure);

  m.def("pair_score(Tensor logits_a, Tensor logits_b, Tensor mixed, float gamma=1.0, str score=\"entropy\") -> Tensor",
        pure);
  m.def(
      "pair_score_backward(Tensor grad, Tensor logits_a, Tensor logits_b, Tensor mixed, float gamma, str score, "
      "bool[3] needed) -> (Tensor, Tensor, Tensor)",
      pure);

  m.def("indexed_pair_score(Tensor own, Tensor pairs, Tensor mixed, float gamma=1.0, str score=\"entropy\") -> Tensor",
        pure);
  m.def(
      "indexed_pair_score_backward(Tensor grad, Tensor own, Tensor pairs, Tensor mixed, float gamma, str score, "
      "bool[2] "
      "needed) -> (Tensor, Tensor)",
      atomic);
  m.def(
      "mixed_pair_score(Tensor logits, Tensor pairs, Tensor tau, SymInt n, Tensor key, float gamma=1.0, str "
      "score=\"entropy\", Tensor? index=None) -> Tensor",
      pure);
  m.def(
      "mixed_pair_score_backward(Tensor grad, Tensor logits, Tensor pairs, Tensor tau, SymInt n, Tensor key, float "
      "gamma, str score, Tensor? index, bool[2] needed) -> (Tensor, Tensor)",
      pure);
  m.def(
      "top_pairs(Tensor logits, SymInt k, Tensor nodes, Tensor weights, float gamma, str score, bool disjoint, bool "
      "prune) -> (Tensor, Tensor, Tensor)",
      pure);

  m.def("beta_logit_grad(Tensor x, Tensor tau) -> Tensor", pure);
  m.def(
      "beta_sample(Tensor tau, SymInt n, Tensor key, Tensor? index=None, str grad=\"implicit\", bool log_tau=False) -> "
      "Tensor",
      pure);
  m.def(
      "beta_sample_backward(Tensor grad_lam, Tensor tau, Tensor key, Tensor? index, str grad, bool log_tau) -> Tensor",
      pure);
  m.def(
      "beta_mix(Tensor a, Tensor b, Tensor tau, SymInt n, Tensor key, Tensor? index=None, str grad=\"implicit\", bool "
      "log_tau=False) -> (Tensor, Tensor)",
      pure);
  m.def(
      "beta_mix.out(Tensor a, Tensor b, Tensor tau, SymInt n, Tensor key, Tensor? index=None, bool log_tau=False, *, "
      "Tensor(a!) mixed, Tensor(b!) lam) -> ()",
      pure);
  // The features enter the gradient to tau alone. Where it is not needed they may be None; then grad_mixed tells their
  // shape (but for the rows of h), and channels_last their order in memory.
  m.def(
      "beta_mix_backward(Tensor? grad_mixed, Tensor? grad_lam, Tensor? a, Tensor? b, Tensor tau, Tensor key, Tensor? "
      "index, str grad, bool log_tau, bool[3] needed, bool channels_last=False) -> (Tensor, Tensor, Tensor)",
      pure);
  m.def(
      "beta_mix_pairs(Tensor h, Tensor pairs, Tensor tau, SymInt n, Tensor key, Tensor? index=None, str "
      "grad=\"implicit\", bool log_tau=False) -> (Tensor, Tensor)",
      pure);
  m.def(
      "beta_mix_pairs.out(Tensor h, Tensor pairs, Tensor tau, SymInt n, Tensor key, Tensor? index=None, bool "
      "log_tau=False, *, Tensor(a!) mixed, Tensor(b!) lam) -> ()",
      pure);
  m.def(
      "beta_mix_pairs_backward(Tensor? grad_mixed, Tensor? grad_lam, Tensor? h, Tensor pairs, Tensor tau, Tensor key, "
      "Tensor? index, str grad, bool log_tau, bool[2] needed, SymInt rows=0, bool channels_last=False) -> (Tensor, "
      "Tensor)",
      pure);

  m.def("relu_mix_logits(Tensor a, Tensor b, Tensor lam, Tensor weight, Tensor? bias=None) -> Tensor", pure);
  m.def("relu_mix_logits_backward(Tensor grad, Tensor a, Tensor b, Tensor lam, Tensor weight) -> Tensor", pure);

  m.def(
      "conv_relu_pool(Tensor image, Tensor weight, Tensor? bias=None, SymInt padding=0, bool mean=False, "
      "Tensor? pairs=None) -> (Tensor, Tensor)",
      pure);
  m.def(
      "conv_relu_pool_backward(Tensor grad, Tensor image, Tensor weight, Tensor where, SymInt padding, bool mean, "
      "bool[3] needed, Tensor? pairs=None) -> (Tensor, Tensor, Tensor)",
      pure);

  m.def("mix_labels(Tensor y_a, Tensor y_b, Tensor lam, SymInt num_classes) -> Tensor", pure);
  m.def("mix_labels_backward(Tensor grad, Tensor y_a, Tensor y_b, Tensor lam) -> Tensor", pure);
  m.def("soft_cross_entropy(Tensor logits, Tensor y_a, Tensor y_b, Tensor lam) -> Tensor", pure);
  m.def(
      "soft_cross_entropy_backward(Tensor grad, Tensor logits, Tensor y_a, Tensor y_b, Tensor lam, bool[2] needed) -> "
      "(Tensor, Tensor)",
      pure);

  m.def(
      "affine_sample(Tensor image, Tensor theta, SymInt[2] size, str mode=\"bilinear\", str padding_mode=\"zeros\", "
      "bool align_corners=False, Tensor? mean=None, Tensor? std=None) -> Tensor",
      pure);
  m.def(
      "affine_sample_backward(Tensor grad, Tensor image, Tensor theta, str mode, str padding_mode, bool align_corners, "
      "Tensor? mean, Tensor? std, bool[2] needed) -> (Tensor, Tensor)",
      atomic);

  m.def(
      "take_images(Tensor images, Tensor index, Tensor? key=None, SymInt padding=0, bool mirror=False, Tensor? "
      "mean=None, Tensor? std=None) -> Tensor",
      pure);

  m.def("k_center_greedy(Tensor features, Tensor centers, SymInt k) -> Tensor", pure);
  m.def("badge_select(Tensor features, Tensor logits, SymInt k, Tensor key) -> Tensor", pure);
  m.def("consistency_variance(Tensor logits) -> Tensor", pure);
  m.def("consistency_variance_backward(Tensor grad, Tensor logits) -> Tensor", pure);
}
