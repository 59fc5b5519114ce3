"""Methods by the names of the paper's tables: a grammar over the files of acquire/ and augment/.

entropy                    an acquisition function alone
ent+manifold-mixup         a pipeline: acquire, then augment what was bought
lada-ent-mix-fixed         look-ahead: acquire by the scores of real and virtual instances (Eq. 2, 13), fixed policy
lada-ent-mix               the same, with the policy learned each round (Eq. 1)
pi+lada-ent-mix            any of these, with the classifier trained by the Pi-model on unlabelled images too
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from lada_al import acquire, augment
from lada_al.acquire import AcquisitionKind
from lada_al.augment import AugmentationKind
from lada_al.errors import UsageError

# Rows of the paper's tables, in their order and by their groups.
TABLE_1 = {
    "Baselines": ["random", "bald", "coreset", "badge", "bgadl", "cal"],
    "Entropy-based": [
        "entropy", "ent+manifold-mixup", "ent+adamixup",
        "lada-ent-mix-fixed", "lada-ent-mix", "lada-ent-stn-fixed", "lada-ent-stn",
    ],
    "VarRatio-based": [
        "var-ratio", "lada-var-mix-fixed", "lada-var-mix", "lada-var-stn-fixed", "lada-var-stn",
    ],
    "VAAL-based": ["vaal", "lada-vaal-mix-fixed", "lada-vaal-mix", "lada-vaal-stn-fixed", "lada-vaal-stn"],
    "LL4AL-based": ["ll4al", "lada-ll4al-mix-fixed", "lada-ll4al-mix", "lada-ll4al-stn-fixed", "lada-ll4al-stn"],
}  # fmt: skip
TABLE_2 = {"AutoAugment": ["ent+autoaugment", "lada-ent-autoaugment-fixed"]}
TABLE_3 = {"Pi-model": ["pi+entropy", "pi+lada-ent-mix-fixed", "pi+lada-ent-mix"]}
FIGURE_5 = {"Mixup": TABLE_1["Entropy-based"][:5], "STN": ["entropy", "ent+stn", "lada-ent-stn-fixed", "lada-ent-stn"]}
GROUPS = {"table1": TABLE_1, "table2": TABLE_2, "table3": TABLE_3, "figure5": FIGURE_5}

# Rows whose one word names a pipeline; the acquisition of that name alone is NAME+none.
WORDS = {"cal": "cal+manifold-mixup", "bgadl": "bald+bgadl"}
SEMI_SUPERVISED = "pi+"


@dataclass(frozen=True)
class Method:
    """What a round does: f_acq, f_aug, whether it looks ahead, learns the policy first, trains on unlabelled images."""

    name: str
    acquisition: AcquisitionKind
    augmentation: AugmentationKind | None = None
    look_ahead: bool = False
    learn: bool = False
    semi_supervised: bool = False

    @property
    def arity(self) -> int:
        """How many real instances a unit of the method has, which are bought together."""
        return 1 if self.augmentation is None else self.augmentation.arity

    @property
    def trains_by_cross_entropy(self) -> bool:
        """Whether labelled batches go through the classifier alone, and add nothing but their cross entropy."""
        return not self.semi_supervised and not self.acquisition.in_training

    @property
    def summary(self) -> str:
        if self.semi_supervised:
            return f"{replace(self, semi_supervised=False).summary} Train by the Pi-model."
        if self.augmentation is None:
            return self.acquisition.summary
        acquisition, augmentation = self.acquisition.name, self.augmentation.name
        if not self.look_ahead:
            return f"Acquire by {acquisition}, then augment the bought instances by {augmentation}."
        policy = "learned each round" if self.learn else "fixed"
        return f"Acquire by {acquisition} of real and virtual instances; {augmentation} with its policy {policy}."


def all_methods() -> dict[str, Method]:
    """Every composition there is, and the rows of the tables that go by a word of their own."""
    acquisitions = [acquire.load(name) for name in acquire.names()]
    augmentations = [augment.load(name) for name in augment.names()]
    methods = [plain(f_acq) for f_acq in acquisitions]
    methods += [
        Method(f"{f_acq.short}+{f_aug.pipeline}", f_acq, f_aug) for f_acq in acquisitions for f_aug in augmentations
    ]
    for f_acq in acquisitions:
        for f_aug in augmentations:
            name = f"lada-{f_acq.short}-{f_aug.name}"
            if not f_acq.scores or not f_aug.look_ahead or (f_acq.needs_image and f_aug.uses_hidden):
                continue
            methods.append(Method(f"{name}-fixed", f_acq, f_aug, look_ahead=True))
            if f_aug.learnable:
                methods.append(Method(name, f_acq, f_aug, look_ahead=True, learn=True))
    known = {method.name: method for method in methods}
    known |= {word: replace(known[name], name=word) for word, name in WORDS.items()}
    return known | {row: _pi(row, known) for row in rows("table3")}


def method(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    known = all_methods()
    if name.removeprefix(SEMI_SUPERVISED) not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise UsageError(f"unknown method '{name}'; the nearest are {', '.join(near)}; `lada methods` lists all")
    return known[name] if name in known else _pi(name, known)


def rows(group: str) -> list[str]:
    """The methods of a table or figure, each once."""
    return list(dict.fromkeys(name for names in GROUPS[group].values() for name in names))


def expand(text: str) -> list[str]:
    """Names separated by commas, where table1, table2, table3, figure5 and all stand for their rows.

    Raises:
        UsageError: a name occurs twice, or there is none.
    """
    words = [part.strip() for part in text.split(",") if part.strip()]
    names = []
    for word in words:
        if word == "all":
            names += [name for group in GROUPS for name in rows(group)]
        else:
            names += rows(word) if word in GROUPS else [word]
    if not names or len(set(words)) < len(words):
        raise UsageError(f"--methods takes different names separated by commas, got '{text}'")
    return list(dict.fromkeys(names))


def plain(f_acq: AcquisitionKind) -> Method:
    """The acquisition function alone."""
    return Method(f"{f_acq.name}+none" if f_acq.name in WORDS else f_acq.name, f_acq)


def _pi(name: str, known: dict[str, Method]) -> Method:
    return replace(known[name.removeprefix(SEMI_SUPERVISED)], name=name, semi_supervised=True)
