"""One frozen model is the configuration of a run: the file config.json, the command line and the Python API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lada_al import data, models
from lada_al.errors import UsageError
from lada_al.methods import Method, method

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
        "tau_star": "best epoch",
        "official_statistics": True,
        "headline": "best",
    },
}
# Labels bought a round, initial labels, training batch: the paper's numbers for 10 and for 100 classes (Section 4.1).
BUDGETS = {"cifar100": {"query": 100, "initial": 1000, "batch": 100}}

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Config(BaseModel):
    """Everything that decides the result of a run. docs/methods.md says where each number comes from.

    A preset and the data set's budget fill in what is not given. Invalid values raise pydantic's ValidationError, a
    ValueError that names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "lada-ent-mix"
    dataset: str = "mnist5k"
    data: str | None = Field(None, description="folder of the data set's files; mnist5k needs none")
    model: str = "small"
    preset: Literal["clean", "paper", "official"] = "clean"
    seed: CountOrNone = 1
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: CountOrNone = Field(0, description="CPU threads, 0: torch's choice; results differ in their last bits")

    rounds: CountOrNone = 10
    query: Count = Field(10, description="labels bought each round, b")
    initial: Count = Field(20, description="labels of the balanced initial set")

    candidates: Count = Field(2000, description="unlabelled images a round looks at, drawn at random")
    layers: tuple[CountOrNone, ...] = Field((1, 2), description="the layers k of which a round draws one", min_length=1)
    samples: Count = Field(5, description="draws of lam for each pair, N")
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="weight of the virtual instances; default 1, and 0.3 for lada-ent-stn[-fixed] on cifar10"
    )
    fixed_tau: Positive = Field(2.0, description="tau of the methods that do not learn it")
    policy_epochs: CountOrNone = 10
    policy_batch: Count = 100
    policy_lr: Positive = 5e-5

    epochs: Count = Field(50, description="passes over the labelled set each round")
    batch: Count = 10
    lr: Positive = 1e-3
    scoring_batch: Count = Field(500, description="images or features at a time through the network when scoring")

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
    headline: Literal["last", "best"] = Field(
        "last", description="accuracy of the last round, or the best over rounds, which is chosen on the test set"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        dataset, preset = values.get("dataset", ""), values.get("preset", "")
        filled = {**BUDGETS.get(dataset, {}), **PRESETS.get(preset, {})}
        if (preset, dataset) == ("official", "cifar100"):  # where the authors' code does start anew
            filled |= {"restart_weights": True, "keep_optimizer": False}
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
        if augmentation is not None and self.query % augmentation.arity:
            raise UsageError(f"{self.method} buys pairs, so query must be even, got {self.query}")
        if self.candidates < self.query:
            raise UsageError(f"candidates must be at least query ({self.query}), got {self.candidates}")
        return self

    @property
    def chosen(self) -> Method:
        return method(self.method)

    @property
    def look_ahead_weight(self) -> float:
        """gamma of Eq. 2, 5 and 13."""
        if self.gamma is not None:
            return self.gamma
        return 0.3 if self.dataset == "cifar10" and self.method.startswith("lada-ent-stn") else 1.0

    def check_fits(self, pool_size: int, classes: int, depth: int) -> None:
        """Refuses what does not fit the data set or the model.

        Raises:
            UsageError: naming the setting, what was expected and what came.
        """
        if self.initial < classes:
            raise UsageError(f"initial must give each of the {classes} classes a label, got {self.initial}")
        wanted = self.initial + self.rounds * self.query
        if wanted > pool_size:
            raise UsageError(
                f"initial + rounds * query = {wanted} labels, but the pool of {self.dataset} has {pool_size} images"
            )
        if max(self.layers) >= depth:
            raise UsageError(f"layers must lie below {depth}, the depth of model {self.model}, got {self.layers}")


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
            raise UsageError(f"unknown setting '{name}'; there are {', '.join(sorted(Config.model_fields))}")
        values[name] = value.split(",") if name == "layers" else value
    return values


def _one_of(what: str, name: str, known: list[str]) -> str:
    if name not in known:
        raise UsageError(f"unknown {what} '{name}'; choose one of {', '.join(known)}")
    return name
