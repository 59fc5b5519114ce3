"""The Python of the README and of the docs runs as it stands there, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lada_ext

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MIXUP, LOGITS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "beta_mix.md").read_text(), re.DOTALL)
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["one op", "the loop", "your own"])
def test_readme_example(example: str, tmp_path: Path) -> None:
    """The last one finds a folder of photos, and somebody who answers."""
    assert len(example.splitlines()) <= 12
    (tmp_path / "photos").mkdir()
    for i, pixels in enumerate(torch.randint(256, (20, 48, 64, 3), dtype=torch.uint8)):
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{i}.jpg")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, input="bars\nspots\n" * 6, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_setting_is_explained() -> None:
    from lada_al import Config

    text = (ROOT / "docs" / "methods.md").read_text()
    assert not [name for name in Config.model_fields if not re.search(rf"`-*{name}\b", text)]


def test_tests_that_methods_name_exist() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    named = {
        name
        for line in re.findall(r"Tests?:((?:\s+`test_\w+\.py`[^`]{0,3})+)", text)
        for name in re.findall(r"test_\w+\.py", line)
    }
    assert len(named) > 3
    assert not [name for name in named if not list((ROOT / "tests").rglob(name))]


def names_of(page: str) -> dict[str, Any]:
    """What the snippets of a page take for given."""
    torch.manual_seed(0)
    images, features, logits = torch.rand(2, 3, 8, 8), torch.randn(200, 6), torch.randn(200, 4)
    return {
        "affine_sample": {
            "image": images, "theta": torch.eye(2, 3).repeat(2, 1, 1), "thetas": torch.eye(2, 3).repeat(2, 5, 1, 1),
            "pool_bytes": (255 * images).byte(), "mean": [0.5] * 3, "std": [0.2] * 3,
            "localisation": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6)),
        },
        "scores": {"net": torch.nn.Linear(6, 4), "loader": features.split(64)},
        "select": {
            "features": features, "labelled_features": features[:3], "logits": logits, "logits_of_views": logits[None],
        },
    }[page]  # fmt: skip


@pytest.mark.parametrize("page", ["affine_sample", "scores", "select"])
def test_snippets_of_a_page_run(page: str) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(snippet, {"lada_ext": lada_ext, **names_of(page)})


def test_mixup_learns() -> None:
    """Two classes that a line separates, mixed."""
    assert len(MIXUP.splitlines()) <= 11
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    labels = torch.arange(64) % 2
    images = torch.randn(64, 4) + 4 * labels[:, None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    exec(MIXUP, {"model": model, "loader": [(images, labels)] * 100, "optimizer": optimizer})
    assert (model(images).argmax(1) == labels).double().mean() > 0.95


def test_logits_of_mixtures() -> None:
    a, b, weight, bias, tau = torch.randn(3, 7), torch.randn(3, 7), torch.randn(4, 7), torch.randn(4), torch.ones(3)
    names: dict[str, Any] = {"lada_ext": lada_ext, "a": a, "b": b, "weight": weight, "bias": bias, "tau": tau}
    exec(LOGITS, names)
    torch.testing.assert_close(names["logits"], lada_ext.reference.relu_mix_logits(a, b, names["lam"], weight, bias))
