"""The files that docs/methods.md shows for a method of one's own are methods, composed with all that is there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lada_al import Bought, Config, acquire, all_methods, augment, run_experiment
from tiny import TINY_SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
FILES = dict(re.findall(r"`((?:acquire|augment)/\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
NEW = {
    "least-margin", "least-margin+manifold-mixup", "lada-least-margin-mix", "lada-least-margin-mix-fixed",
    "lada-least-margin-stn", "ent+brightness", "lada-least-margin-brightness-fixed", "lada-var-brightness-fixed",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """They stand beside those of the package."""
    folder = tmp_path_factory.mktemp("own")
    assert set(FILES) == {"acquire/least_margin.py", "augment/brightness.py"}
    with pytest.MonkeyPatch.context() as patch:
        for package, kind in ((acquire, "acquire"), (augment, "augment")):
            (folder / kind).mkdir()
            patch.setattr(package, "__path__", [*package.__path__, str(folder / kind)])
        for name, text in FILES.items():
            (folder / name).write_text(text)
        yield
    for name in ("acquire.least_margin", "augment.brightness"):
        sys.modules.pop(f"lada_al.{name}", None)


def test_they_compose() -> None:
    known = all_methods()
    assert known.keys() >= NEW
    assert "lada-ent-brightness" not in known  # there is no policy to learn
    assert known["least-margin"].summary == "Least margin: how close to one another the two likeliest classes are."


@pytest.mark.parametrize("method", sorted(NEW))
def test_they_run_and_do_not_depend_on_batches(method: str, tiny_folder: Path, tmp_path: Path) -> None:
    settings = {**TINY_SETTINGS, "data": str(tiny_folder), "method": method, "rounds": 1}
    for batch in (500, 9):
        events = list(run_experiment(Config(**{**settings, "scoring_batch": batch}), tmp_path / str(batch)))
        bought = events[2]
        assert isinstance(bought, Bought)
        if batch == 500:
            first = bought
    assert bought.ids == first.ids
    assert bought.scores == pytest.approx(first.scores, rel=1e-5)
    if method == "least-margin":
        assert bought.scores == sorted(bought.scores or [], reverse=True)
        assert all(0 < score < 1 for score in bought.scores or [])
