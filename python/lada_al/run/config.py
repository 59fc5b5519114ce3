"""One frozen model is the configuration of a run: the file config.json, the command line and the Python API."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lada_al import data, models
from lada_al.curves import FEWEST_NODES
from lada_al.errors import UsageError
from lada_al.methods import Method, method
from lada_al.pools.decode import WHITE

PRESETS: dict[str, dict[str, Any]] = {
    # The default: weights start anew each round, and nothing is chosen on the test set.
    "clean": {},
    # Our reading of the text: theta goes on from round to round; the best accuracy on the test set is reported.
    "paper": {"restart_weights": False, "headline": "best"},
    # The authors' code, with those of its bugs that change results.
    "official": {
        "restart_weights": False,
        "keep_optimizer": True,
        "virtual_loss": "own step",
        "stale_gradient": True,
        "curve": 0,
        "tau_star": "best epoch",
        "official_statistics": True,
        "adamixup_untrained": True,
        "adamixup_mean_label": True,
        "headline": "best",
    },
}
# Labels bought a round, initial labels, training batch: the paper's numbers for 10 and for 100 classes (Section 4.1).
BUDGETS = {"cifar100": {"query": 100, "initial": 1000, "batch": 100}}
# Fields that mean something only where the labels and a test set are at hand; where people label, they are refused.
FOR_BENCHMARKS = {"dataset", "data", "image_size", "white", "rounds", "schedule", "query", "initial"}
FOR_BENCHMARKS |= {"official_statistics", "headline"}

SMALLEST_MAP = 4  # of which the convolutions of pair_net.py leave something

Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]  # one alone would leave nothing to compare
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Config(BaseModel):
    """Everything that decides the result of a run. docs/methods.md says where each number comes from.

    A preset and the data set's budget fill in what is not given. Invalid values raise pydantic's ValidationError, a
    ValueError that names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field("lada-ent-mix", description="one of `lada methods`")
    dataset: str = Field("mnist5k", description=f"one of {', '.join(data.NAMES)}")
    data: str | None = Field(None, description="folder of the data set's files; mnist5k needs none")
    image_size: Count | None = Field(None, description="height and width that image files of `own` are brought to")
    white: Annotated[int, Field(ge=1, le=WHITE)] = Field(
        WHITE, description="white in grey image files of `own` of 16 bits: 4095 where 12 of them are used"
    )
    model: str = Field("small", description=f"one of {', '.join(models.MODELS)}")
    preset: Literal["clean", "paper", "official"] = Field(
        "clean", description="what other settings are when not given: ours, the paper's or the authors' code's"
    )
    seed: Whole = Field(1, description="decides every random number of the run")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    plain: bool = Field(
        False, description="no shortcuts: mix at layer k, no curves, compose Eq. 13, no replays; for finding errors"
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="CPU threads, 0: torch's choice; results differ in their last bits"
    )

    rounds: Whole = Field(10, description="purchases after the initial one")
    query: Count = Field(10, description="labels bought each round, b")
    schedule: tuple[Count, ...] = Field((), description="labels bought in rounds 1, 2, ..., in the place of query")
    initial: Count = Field(20, description="labels of the balanced initial set")

    candidates: Count = Field(2000, description="unlabelled images a round looks at, drawn at random")
    layers: tuple[Whole, ...] = Field((1, 2), description="the layers k of which a round draws one", min_length=1)
    pairs: Literal["random", "all"] = Field(
        "random", description="look-ahead scores a random matching of the candidates, or seeks the best of all pairs"
    )
    selection: Literal["greedy", "diverse"] = Field(
        "greedy", description="look-ahead buys the highest scores, or of high scores units unlike each other (ours)"
    )
    samples: Count = Field(5, description="draws of lam for each pair, N")
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="weight of the virtual instances; default 1, and 0.3 for lada-ent-stn[-fixed] on cifar10"
    )
    fixed_tau: Positive = Field(2.0, description="tau of the methods that do not learn it")
    largest_tau: Positive = Field(1.0, description="the learned tau lies between 0 and this")
    policy_epochs: Whole = Field(10, description="passes over the pairs or images that a policy is learned on")
    policy_batch: Count = Field(100, description="pairs or images of a step of it")
    policy_lr: Positive = Field(5e-5, description="Adam's learning rate for policies")
    curve: Whole = Field(
        8, description="lam at which a pair is evaluated once, to learn its policy on the curve; 0: at each draw"
    )

    epochs: Count = Field(50, description="passes over the labelled set each round")
    batch: Count = Field(10, description="labelled images of a training step")
    lr: Positive = Field(1e-3, description="Adam's learning rate")
    scoring_batch: Count = Field(
        500, description="images or features at a time through the network when scoring; of images, a CPU takes 100"
    )

    dropout: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="before the last layer, in BALD and BGADL")
    bald_samples: Several = Field(20, description="draws of the dropout masks, T")
    cal_views: Several = Field(50, description="random shifts and mirror images of each image")
    vaal_steps: Count = Field(500, description="steps of autoencoder and discriminator each round")
    vaal_batch: Annotated[int, Field(ge=2)] = Field(64, description="images of a step of them")
    vaal_lr: Positive = Field(5e-4, description="their learning rate")
    vaal_latent: Count = Field(64, description="numbers that the autoencoder makes of an image")
    vaal_width: Count = Field(32, description="channels of the autoencoder's first convolution")
    vaal_probabilities: bool = Field(True, description="the discriminator sees class probabilities beside the code")
    ll4al_weight: Positive = Field(1.0, description="weight of the ranking loss")
    ll4al_cut: Annotated[float, Field(ge=0, le=1)] = Field(0.6, description="part of the training it moves theta in")
    bgadl_width: Annotated[int, Field(ge=2)] = Field(64, description="channels of the generator's last layer but one")
    bgadl_batch: Annotated[int, Field(ge=2)] = Field(100, description="images of a step of the generator")
    pi_weight: Positive = Field(100.0, description="weight of the Pi-model's consistency loss after its ramp-up")
    pi_batch: Count = Field(100, description="unlabelled images of a step of the Pi-model")

    restart_weights: bool = Field(True, description="train from the initial weights each round")
    keep_optimizer: bool = Field(False, description="Adam's state goes from round to round, if the weights do")
    virtual_loss: Literal["summed", "own step"] = Field(
        "summed", description="virtual instances join a labelled batch's loss (Eq. 14), or make a step of their own"
    )
    stale_gradient: bool = Field(False, description="with 'own step': the last labelled batch's gradient stays in")
    tau_star: Literal["policy", "best epoch"] = Field(
        "policy", description="tau* is what the learned policy says (Eq. 12), or said in the epoch of least loss"
    )
    official_statistics: bool = Field(False, description="normalise by the constants of the authors' code")
    adamixup_untrained: bool = Field(False, description="policy and discriminator stay as they were initialised")
    adamixup_mean_label: bool = Field(False, description="all mixtures of a batch get the labels' mean weight")
    headline: Literal["last", "best"] = Field(
        "last", description="accuracy of the last round, or the best over rounds, which is chosen on the test set"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values  # a damaged file's, which is refused as such
        dataset, preset = str(values.get("dataset")), str(values.get("preset"))
        filled = {**BUDGETS.get(dataset, {}), **PRESETS.get(preset, {})}
        if (preset, dataset) == ("official", "cifar100"):  # where the authors' code does start anew
            filled |= {"restart_weights": True, "keep_optimizer": False, "adamixup_untrained": False}
        return {**filled, **values}

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        return method(name).name

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        return _one_of("data set", name, data.NAMES)

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        return _one_of("model", name, list(models.MODELS))

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        augmentation = self.chosen.augmentation
        if self.image_size is not None and self.dataset != "own":
            raise UsageError(f"image_size is for data set own; images of {self.dataset} are of one size")
        if self.white != WHITE and self.dataset != "own":
            raise UsageError(f"white is for data set own; images of {self.dataset} have 8 bits")
        if self.seeks_pairs and not (augmentation and augmentation.mixes_by_beta and self.chosen.acquisition.fused):
            raise UsageError(f"pairs=all works for entropy or var-ratio with mix, got {self.method}")
        for query in {self.query, *self.schedule}:
            if query % self.chosen.arity:
                raise UsageError(f"{self.method} buys pairs, so query must be even, got {query}")
            if self.candidates < query:
                raise UsageError(f"candidates must be at least query ({query}), got {self.candidates}")
        if 0 < self.curve < FEWEST_NODES:
            raise UsageError(f"curve must be 0, for no curve, or at least {FEWEST_NODES} nodes, got {self.curve}")
        if self.schedule and len(self.schedule) != self.rounds:
            raise UsageError(f"schedule must give labels for each of {self.rounds} rounds, got {len(self.schedule)}")
        return self

    @property
    def chosen(self) -> Method:
        return method(self.method)

    @property
    def seeks_pairs(self) -> bool:
        """Whether the best of all pairs are sought; methods that look ahead to no pairs have nothing to seek."""
        return self.pairs == "all" and self.chosen.look_ahead and self.chosen.arity == 2

    @property
    def look_ahead_weight(self) -> float:
        """gamma of Eq. 2, 5 and 13."""
        if self.gamma is not None:
            return self.gamma
        return 0.3 if self.dataset == "cifar10" and self.method.startswith("lada-ent-stn") else 1.0

    def labels_of(self, round: int) -> int:
        """How many labels round 1, 2, ... buys."""
        return self.schedule[round - 1] if self.schedule else self.query

    def for_batch(self, n: int) -> Config:
        """This configuration where people are asked for `n` labels; it looks at as many candidates at least."""
        return Config(**{**self.model_dump(), "query": n, "candidates": max(n, self.candidates)})

    @property
    def all_labels(self) -> int:
        """Labels after the last round."""
        return self.initial + sum(self.labels_of(r) for r in range(1, self.rounds + 1))

    def check_fits(self, pool_size: int, classes: int, shapes: list[tuple[int, ...]], mixing_logits: list[int]) -> None:
        """Refuses what does not fit the data set or the model.

        Args:
            pool_size, classes: of the data set.
            shapes: of the model's h^0 to h^K.
            mixing_logits: the layers k at which mixing is mixing logits.

        Raises:
            UsageError: naming the setting, what was expected and what came.
        """
        if self.initial < classes:
            raise UsageError(f"initial must give each of the {classes} classes a label, got {self.initial}")
        if self.all_labels > pool_size:
            raise UsageError(
                f"initial + rounds * query = {self.all_labels} labels, "
                f"but the pool of {self.dataset} has {pool_size} images"
            )
        self.check_layers(shapes, mixing_logits, f"model {self.model}")

    def check_layers(self, shapes: list[tuple[int, ...]], mixing_logits: list[int], model: str) -> None:
        """Refuses layers at which the method cannot work in the model, which has this name; see `check_fits`.

        Methods that neither mix features nor learn from them use no layers. Those that read what the last layer sees as
        a vector are refused where it is none.
        """
        parts = [part for part in (self.chosen.acquisition, self.chosen.augmentation) if part is not None]
        if any(part.needs_vector for part in parts) and len(shapes[-2]) != 1:
            raise UsageError(
                f"method {self.method} needs a network that ends with a linear layer, got {model}, "
                f"whose last cut is at features of shape {shapes[-2]}"
            )
        if self.seeks_pairs and not set(self.layers) <= set(mixing_logits):
            layers = " or ".join(map(str, mixing_logits))
            raise UsageError(
                f"pairs=all needs layers where mixing features is mixing logits, in {model} {layers}, got {self.layers}"
            )
        augmentation = self.chosen.augmentation
        mixes_hidden = augmentation is not None and augmentation.uses_hidden
        if not mixes_hidden and not self.chosen.acquisition.in_training:
            return
        fixed = augmentation is not None and augmentation.mixes_by_beta and not self.chosen.learn
        if fixed:
            end, why = len(shapes) - 1, f"behind which {model} has no more layers"
        else:
            end = next(k for k, shape in enumerate(shapes) if len(shape) != 3)
            why = f"from where {model} has no feature maps"
        if max(self.layers) >= end:
            raise UsageError(f"layers must lie below {end}, {why}, got {self.layers}; e.g. layers=(0,), the images")
        if mixes_hidden and not fixed:
            self._check_maps(shapes, model)

    def _check_maps(self, shapes: list[tuple[int, ...]], model: str) -> None:
        """Refuses layers whose feature maps are too small for a policy network."""
        for k in self.layers:
            if min(shapes[k][1:]) < SMALLEST_MAP:
                least = f"{SMALLEST_MAP} x {SMALLEST_MAP}"
                raise UsageError(
                    f"layers: the policy network of {self.method} looks at maps of {least} or more, "
                    f"those of layer {k} of {model} are {shapes[k][1]} x {shapes[k][2]}"
                )


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Fields given as NAME=VALUE; lists are separated by commas.

    Raises:
        UsageError: a text is not of this form, or names no field.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, got '{text}'")
        if name not in Config.model_fields:
            near = difflib.get_close_matches(name, Config.model_fields, n=3, cutoff=0.0)
            raise UsageError(f"unknown setting '{name}'; the nearest are {', '.join(near)}; `lada settings` lists all")
        values[name] = value.split(",") if name in ("layers", "schedule") else value
    return values


def _one_of(what: str, name: str, known: list[str]) -> str:
    if name not in known:
        raise UsageError(f"unknown {what} '{name}'; choose one of {', '.join(known)}")
    return name
