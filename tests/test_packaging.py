"""The build and what comes out of it: the wheel in a foreign environment, the toolkit search, the errors of a bad start."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest
import torch
from filelock import FileLock
from packaging.requirements import Requirement
from setuptools import Distribution

import lada_ext
from lada_ext._library import register_fake

ROOT = Path(__file__).parent.parent

FOREIGN_USE = """
import sys, torch, lada_ext
logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0]], requires_grad=True)
scores = lada_ext.entropy(logits)
assert abs(scores[0].item() - 2) < 1e-6 and scores[1].item() < 1e-6
scores.sum().backward()
assert torch.isfinite(logits.grad).all()
assert "lada_al" not in sys.modules and "site-packages" in lada_ext.__file__
print("used", lada_ext.build_info()["torch"])
"""

FOREIGN_TRAINING = """
import torch, lada_ext
torch.manual_seed(0)
x = torch.randn(64, 2)
y = (x[:, 0] > 0).long()
body, head = torch.nn.Linear(2, 16), torch.nn.Linear(16, 2)
raw_tau = torch.zeros((), requires_grad=True)
optimizer = torch.optim.Adam([*body.parameters(), *head.parameters(), raw_tau], lr=0.05)
losses = []
for step in range(60):
    h, order = body(x).relu(), torch.randperm(64)
    mixed, lam = lada_ext.beta_mix(h, h[order], raw_tau.exp(), 2, lada_ext.make_key(step))
    one_hot = torch.nn.functional.one_hot(y, 2).float()
    target = lam[..., None] * one_hot[:, None] + (1 - lam[..., None]) * one_hot[order][:, None]
    loss = torch.nn.functional.cross_entropy(head(mixed).flatten(0, 1), target.flatten(0, 1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert raw_tau.grad is not None and raw_tau.item() != 0
assert sum(losses[-10:]) < 0.8 * sum(losses[:10]), losses
print("trained")
"""


def setup_module_of_project() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lada_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements_of_torch() -> set[str]:
    """Names of torch and of all it needs, as its metadata says."""
    found: set[str] = set()
    to_do = [Requirement("torch")]
    while to_do:
        requirement = to_do.pop()
        extras = requirement.extras or {""}
        key = f"{requirement.name.lower()}[{','.join(sorted(extras))}]"
        if key in found:
            continue
        found.add(key)
        for text in importlib.metadata.requires(requirement.name) or []:
            child = Requirement(text)
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                to_do.append(child)
    return {key.split("[")[0] for key in found}


@pytest.fixture
def foreign_python(tmp_path: Path) -> Path:
    """The Python of a new environment in which torch and what it requires can be imported, and nothing else.

    The packages are links to those of this environment, so that nothing is downloaded.
    """
    folder = tmp_path / "foreign"
    folder.mkdir()
    venv.create(folder / "env", with_pip=False, symlinks=True)
    packages = folder / "torch-alone"
    packages.mkdir()
    for name in requirements_of_torch():
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    python = folder / "env" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(site, "torch-alone.pth").write_text(f"{packages}\n")
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    with FileLock(ROOT / "build" / "wheel.lock"):  # every wheel of a checkout passes through its one build folder
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


class TestWheel:
    def test_it_holds_both_packages_and_their_data(self, wheel: Path) -> None:
        listing = subprocess.run(
            [sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True, check=True
        ).stdout
        names = {line.split()[0] for line in listing.splitlines()[1:]}
        assert any(re.fullmatch(r"lada_ext/_C\..*\.so", name) for name in names)
        assert {
            "lada_ext/_C.pyi",
            "lada_ext/py.typed",
            "lada_al/py.typed",
            "lada_al/label/batch.html.j2",
            "lada_al/label/page.html",
            "lada_al/report/page.html.j2",
            "lada_al/report/page.css",
        } <= names
        sources = {f"lada_al/{p.relative_to(ROOT / 'python/lada_al')}" for p in (ROOT / "python/lada_al").rglob("*.py")}
        assert sources == {name for name in names if name.startswith("lada_al/") and name.endswith(".py")}

    def test_torch_is_the_only_requirement(self, wheel: Path, foreign_python: Path, tmp_path: Path) -> None:
        """A foreign project in a new environment imports lada_ext alone, and trains through beta_mix."""
        installed = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "--python",
                foreign_python,
                "install",
                "-q",
                "--no-deps",
                "--no-index",
                wheel,
            ],
            capture_output=True,
            text=True,
        )
        assert installed.returncode == 0, installed.stderr
        for name, script in (("use.py", FOREIGN_USE), ("training.py", FOREIGN_TRAINING)):
            (tmp_path / name).write_text(script)
            done = subprocess.run([foreign_python, name], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.startswith(("used", "trained"))


def test_the_source_distribution_configures(tmp_path: Path) -> None:
    """It holds what CMake reads, the tests included."""
    with FileLock(ROOT / "build" / "wheel.lock"):
        command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    for folder in ("csrc", "lada_ext", "python", "tests"):
        wanted = {
            p.relative_to(ROOT) for p in (ROOT / folder).rglob("*.*") if p.suffix in {".py", ".h", ".cpp", ".cuh"}
        }
        assert not [path for path in wanted if not (source / path).exists()]
    done = subprocess.run(
        ["cmake", "-S", source, "-B", tmp_path / "build", "-G", "Ninja"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_build_info() -> None:
    info = lada_ext.build_info()
    assert info["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert info["openmp"] is True
    assert set(info) == {"torch", "compiler", "cuda", "cuda_architectures", "openmp", "debug"}


def test_import_without_the_compiled_library_says_what_to_run(foreign_python: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lada_ext", tmp_path / "lada_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = subprocess.run([foreign_python, "-c", "import lada_ext"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: lada_ext's compiled ops cannot be loaded" in done.stderr
    assert "pip install --no-build-isolation ." in done.stderr


def test_a_library_of_an_older_build_says_what_to_run() -> None:
    for op in ("lada_ext::of_tomorrow", "lada_ext::entropy.of_tomorrow"):
        with pytest.raises(ImportError, match=r"of an older build, without \w+\)\.\nBuild them"):
            register_fake(op)


def test_a_build_removes_no_more_than_it_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = setup_module_of_project()
    for name in ("lada_ext", "lada_al", "precious"):
        (tmp_path / name).mkdir()
    command = module.FreshBuild(Distribution({"packages": ["lada_ext", "lada_al", "lada_al.data"]}))
    command.build_lib = str(tmp_path)
    monkeypatch.setattr(module.build, "run", lambda self: None)
    command.run()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_build_without_torch_says_what_to_run() -> None:
    code = "import sys, runpy; sys.modules['torch'] = None; runpy.run_path('setup.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no torch is importable here" in done.stderr
    assert "pip install --no-build-isolation ." in done.stderr
    assert "Traceback" not in done.stderr


class TestToolkit:
    def test_a_wrapper_on_path_names_the_real_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = tmp_path / "cuda"
        (home / "bin").mkdir(parents=True)
        wrapper = tmp_path / "path" / "nvcc"
        wrapper.parent.mkdir()
        wrapper.write_text(f"#!/bin/sh\necho '#$ _HERE_={home}/bin' >&2\n")
        wrapper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_HOME", raising=False)
        monkeypatch.delenv("CUDA_PATH", raising=False)
        assert setup_module_of_project().find_cuda_home() == home

    def test_cuda_home_goes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = setup_module_of_project()
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        assert module.find_cuda_home() == tmp_path

    @pytest.mark.parametrize(
        ("gpus", "expected"),
        [
            ([(9, 0), (8, 0), (9, 0)], "8.0;9.0"),
            ([(12, 1)], "12.0+PTX"),
            ([(6, 1), (9, 0), (12, 1)], "9.0;12.0+PTX"),
            ([(6, 1)], ""),
        ],
    )
    def test_architectures_are_those_that_nvcc_knows(
        self, gpus: list[tuple[int, int]], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text("#!/bin/sh\nprintf 'compute_75\\ncompute_80\\ncompute_90\\ncompute_120\\n'\n")
        nvcc.chmod(0o755)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: gpus[i])
        assert setup_module_of_project().visible_architectures(tmp_path) == expected

    def test_headers_are_looked_for_only_if_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = setup_module_of_project()
        include = tmp_path / "include"
        include.mkdir()
        elsewhere = tmp_path / "site" / "nvidia" / "cu13" / "include"
        elsewhere.mkdir(parents=True)
        for header in ("cuda_runtime_api.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h"):
            (elsewhere / header).touch()
        monkeypatch.syspath_prepend(tmp_path / "site")
        assert str(elsewhere) in module.missing_header_folders(tmp_path)
        for header in ("cuda_runtime_api.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h"):
            (include / header).touch()
        assert module.missing_header_folders(tmp_path) == []

    @pytest.mark.parametrize(
        ("force", "code", "message"), [("1", 1, "FORCE_CUDA=1, but CUDA code cannot be built"), ("0", 0, "")]
    )
    def test_force_cuda(self, force: str, code: int, message: str, tmp_path: Path) -> None:
        environment = {**os.environ, "FORCE_CUDA": force, "CUDA_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "setup.py", "--version"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        assert message in done.stderr

    def test_what_decides_against_cuda_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        module = setup_module_of_project()
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        monkeypatch.delenv("FORCE_CUDA", raising=False)
        cuda, why = module.find_cuda()
        assert cuda is None
        assert "no nvcc in" in why or "built without CUDA" in why
