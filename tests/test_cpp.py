"""The C++ tests of the formulas, built by CMake with nothing but a compiler."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("ninja") is None, reason="needs cmake and ninja")
def test_formulas_in_cpp(tmp_path: Path) -> None:
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-G", "Ninja"],
        ["cmake", "--build", str(tmp_path)],
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure", "--no-tests=error"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    assert any(entry["file"].endswith("test_beta_mix.cpp") for entry in commands)
