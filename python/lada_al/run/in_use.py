"""Which settings the result of a run depends on. Runs that differ in no other can be replications of one another, or be
compared: the learning rate of a policy says nothing of a method that learns none."""

from __future__ import annotations

import functools

from lada_al import acquire, augment
from lada_al.run.config import Config


@functools.lru_cache
def in_use(config: Config) -> frozenset[str]:
    """Names of the settings that the configuration's method reads; the others do not change what it buys and learns."""
    chosen = config.chosen
    f_acq, f_aug = chosen.acquisition, chosen.augmentation
    by_beta = f_aug is not None and f_aug.mixes_by_beta
    uses = {
        "layers": f_acq.in_training or (f_aug is not None and f_aug.uses_hidden),
        "fixed_tau": by_beta and (not chosen.learn or config.seeks_pairs),
        "pairs": chosen.look_ahead and chosen.arity == 2,
        "dropout": f_acq.dropout,
        "keep_optimizer": not config.restart_weights,
        "virtual_loss": f_aug is not None,
        "stale_gradient": f_aug is not None and config.virtual_loss == "own step",
        **dict.fromkeys(("samples", "gamma", "selection"), chosen.look_ahead),
        **dict.fromkeys(("policy_epochs", "policy_batch", "policy_lr", "tau_star"), chosen.learn),
        **dict.fromkeys(("largest_tau", "curve"), by_beta and chosen.learn),
        **dict.fromkeys(("pi_weight", "pi_batch"), chosen.semi_supervised),
    }
    own = {*f_acq.settings, *(f_aug.settings if f_aug is not None else ())}
    unused = {name for name, used in uses.items() if not used} | (_of_some_file() - own)
    return frozenset(Config.model_fields) - unused


def _of_some_file() -> set[str]:
    """Settings that a file of acquire/ or augment/ has for itself."""
    of_acquire = {name for file in acquire.names() for name in acquire.load(file).settings}
    return of_acquire | {name for file in augment.names() for name in augment.load(file).settings}
