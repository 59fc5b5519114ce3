"""Processors without AVX-512 take other loops; they give the same results, and pass the same tests."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is of x86-64")
ROOT = Path(__file__).parent.parent
RESULTS = """
import sys, torch, lada_ext
results = {"float32": [], "bfloat16": []}
for classes in (2, 3, 4, 10, 100, 129, 1000):
    for dtype in (torch.float32, torch.bfloat16):
        logits = 5 * torch.randn(77, classes, generator=torch.Generator().manual_seed(classes))
        logits = logits.to(dtype).requires_grad_()
        scores = [f(logits) for f in (lada_ext.entropy, lada_ext.variation_ratio, lada_ext.margin)]
        scores.append(lada_ext.bald(logits.view(7, 11, classes)))
        results["float32"] += [s.detach() for s in scores]
        for score in scores:
            (grad,) = torch.autograd.grad(score.sum(), logits)
            results[str(dtype).split(".")[1]].append(grad)
results["float32"].append(lada_ext.beta_sample(torch.logspace(-3, 3, 1001), 3, lada_ext.make_key(1)))
a, b = torch.randn(2, 3, 1003, generator=torch.Generator().manual_seed(1))
lam = torch.linspace(0, 1, 21).view(3, 7).requires_grad_()
logits = lada_ext.relu_mix_logits(a, b, lam, b[:, None].expand(3, 4, 1003).flatten(0, 1) / 32)
results["float32"] += [logits.detach(), *torch.autograd.grad(logits.sum(), lam)]
image = torch.randn(3, 5, 9, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
weight = torch.randn(7, 5, 3, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
pooled = lada_ext.conv_relu_pool(image, weight / 7, padding=1)
results["float32"] += [pooled.detach(), *torch.autograd.grad(pooled.sum(), (image, weight))]
torch.save(results, sys.argv[1])
"""


def without_avx512() -> dict[str, str]:
    return {**os.environ, "LADA_EXT_AVX512": "0"}


def test_results_are_the_same(tmp_path: Path) -> None:
    for name, environment in (("with", dict(os.environ)), ("without", without_avx512())):
        subprocess.run([sys.executable, "-c", RESULTS, str(tmp_path / name)], env=environment, check=True, cwd=ROOT)
    here, elsewhere = (torch.load(tmp_path / name) for name in ("with", "without"))
    assert len(here["float32"]) == 7 * (2 * 4 + 4) + 3 + 3
    torch.testing.assert_close(here["float32"], elsewhere["float32"], rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(here["bfloat16"], elsewhere["bfloat16"], rtol=1e-2, atol=2e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_they_pass_the_tests_of_scores_and_mixtures() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
    run = subprocess.run(
        [*command, "tests/test_scores.py", "tests/test_relu_mix.py", "tests/test_conv_relu_pool.py"],
        env=without_avx512(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:]
