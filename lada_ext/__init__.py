"""Fused torch ops of look-ahead data acquisition (LADA): scores of a pool, Beta mixing, spatial sampling.

Every op runs on CPU and CUDA, traces under torch.compile and is also reachable as ``torch.ops.lada_ext.<name>``.
Scores, mixing and sampling are differentiable once, in reverse mode. ``lada_ext.reference`` says in plain torch what
each of them computes.
"""

from lada_ext import nn, reference
from lada_ext._library import build_info, release_memory
from lada_ext.affine_sample import affine_sample
from lada_ext.beta_mix import beta_logit_grad, beta_mix, beta_mix_pairs, beta_sample
from lada_ext.conv_relu_pool import conv_relu_pool
from lada_ext.keys import make_key
from lada_ext.pair_score import TopPairs, beta_nodes, indexed_pair_score, mixed_pair_score, pair_score, top_pairs
from lada_ext.relu_mix import relu_mix_logits
from lada_ext.scores import bald, entropy, margin, top_k, topk_scores, variation_ratio
from lada_ext.select import badge_select, consistency_variance, k_center_greedy
from lada_ext.soft_labels import mix_labels, soft_cross_entropy
from lada_ext.take_images import take_images

__version__ = "0.1.0"

__all__ = [
    "TopPairs",
    "affine_sample",
    "badge_select",
    "bald",
    "beta_logit_grad",
    "beta_mix",
    "beta_mix_pairs",
    "beta_nodes",
    "beta_sample",
    "build_info",
    "consistency_variance",
    "conv_relu_pool",
    "entropy",
    "indexed_pair_score",
    "k_center_greedy",
    "make_key",
    "margin",
    "mix_labels",
    "mixed_pair_score",
    "nn",
    "pair_score",
    "reference",
    "release_memory",
    "relu_mix_logits",
    "soft_cross_entropy",
    "take_images",
    "top_k",
    "top_pairs",
    "topk_scores",
    "variation_ratio",
]
