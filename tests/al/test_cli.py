"""The command `lada` as a user calls it: exit codes, one-line errors, what it prints and what it writes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable
from pathlib import Path

import lada_al
import pytest
import torch
import typer
from lada_al import Config, acquire, all_methods, augment, cli
from lada_al.methods import GROUPS, rows
from lada_al.run import compare, estimate, journal
from lada_al.run.compare import _interrupts_held_back
from lada_al.run.protocols import PROTOCOLS
from lada_al.run.study import Study
from lada_al.self_test import CASES
from tiny import TINY_SETTINGS

import lada_ext

ROOT = Path(__file__).parents[2]
Lada = Callable[..., subprocess.CompletedProcess[str]]
OPTIONS = [
    "--dataset=fashion", "--rounds=1", "--query=4", "--initial=6", "--device=cpu",
    *(f"--set={name}={TINY_SETTINGS[name]}" for name in ("candidates", "samples", "policy_epochs", "epochs", "threads")),
]  # fmt: skip


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`lada` in a process of its own."""
    command = [sys.executable, "-m", "lada_al", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def lada(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lada:
    """`lada` in this process, which saves the seconds that importing torch takes."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["lada", *map(str, arguments)])
        monkeypatch.setattr(cli.console, "width", 200)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess([], code if isinstance(code, int) else 0, out, err)

    return call


def test_run_resume_and_report(lada: Lada, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = process("run", "--out", out, "--data", tiny_folder, "--method", "lada-ent-mix", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert re.search(r"round +1: 10 labels, accuracy \d+\.\d+%", done.stdout)
    assert f"report: {out / 'report.html'}" in done.stdout
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json", "about.json", "rounds.jsonl", "checkpoint.pt", "acquired", "latent.npz", "report.html", "report.csv",
    }  # fmt: skip

    again = lada("run", "--out", out)
    assert again.returncode == 2
    assert again.stderr.strip() == f"lada: --out: {out} is not empty; add --resume to go on with the run in it"
    more = lada("run", "--out", out, "--resume", "--rounds", 2)  # all else is as it was begun
    assert more.returncode == 0, more.stderr
    assert "14 labels" in more.stdout
    other = lada("run", "--out", out, "--resume", "--seed", 5)
    assert other.returncode == 2
    assert "begun with other settings: seed was 1 and is 5" in other.stderr

    (out / "report.html").unlink()
    assert lada("report", out).returncode == 0
    assert (out / "report.html").exists()


def test_compare(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    arguments = ["compare", "--out", out, "--data", tiny_folder, "--methods", "random,lada-var-stn", "--seeds", "1,2"]
    done = process(*arguments, *OPTIONS, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"4 of 4 runs to do, 2 at a time: about \d+ s", done.stdout)
    assert done.stdout.count("finished: ") == 4
    assert re.search(r"lada-var-stn +2 +10 ", done.stdout)
    assert (out / "report.html").exists()
    assert len(list(out.glob("*/seed-*/rounds.jsonl"))) == 4
    before = {path: path.read_bytes() for path in out.glob("*/seed-*/rounds.jsonl")}
    assert process(*arguments, *OPTIONS, "--jobs", 1).returncode == 2
    resumed = process(*arguments, "--jobs", 1, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "0 of 4 runs to do" in resumed.stdout
    assert "finished: " not in resumed.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_a_comparison_keeps_the_settings_it_began_with(lada: Lada, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "compare"
    named = ["--out", out, "--data", tiny_folder, "--methods", "random", "--seeds", "1", "--jobs", 1]
    assert lada("compare", *named, *OPTIONS, "--set", "epochs=2").returncode == 0
    more = lada("compare", "--out", out, "--resume", "--jobs", 1, "--methods", "entropy")
    assert more.returncode == 0, more.stderr
    assert "1 of 1 runs to do" in more.stdout
    runs = [json.loads(path.read_text()) for path in out.glob("*/seed-1/config.json")]
    assert sorted(run.pop("method") for run in runs) == ["entropy", "random"]
    assert runs[0] == runs[1]
    assert runs[0]["epochs"] == 2
    both = lada("compare", "--out", out, "--resume", "--jobs", 1)
    assert "0 of 2 runs to do" in both.stdout
    other = lada("compare", "--out", out, "--resume", "--set", "epochs=3", "--methods", "var-ratio")
    assert other.returncode == 2
    assert "begun with other settings: epochs was 2 and is 3" in other.stderr
    assert not (out / "var-ratio").exists()
    assert "holds a comparison; add --resume" in lada("compare", *named, *OPTIONS).stderr


@pytest.mark.parametrize("option", ["--device=cpu", "--set=device=cpu"])
def test_the_device_of_the_runs_says_how_many_go_at_a_time(
    option: str, lada: Lada, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is named, even when the comparison was begun; on a machine that has a GPU, too."""
    named = ["--out", tmp_path / "c", "--data", tiny_folder, "--methods", "random", "--seeds", "2,7"]
    others = [other for other in OPTIONS if not other.startswith("--device")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compare, "cores", lambda: 3)
    monkeypatch.setattr(estimate, "_probe", lambda config: estimate.Pace([], 1))
    done = lada("compare", *named, *others, option, "--dry-run")
    assert "2 of 2 runs to do, 3 at a time" in done.stdout, done.stderr
    settings = {**TINY_SETTINGS, "data": str(tiny_folder), "device": "cpu"}
    Study(methods=["random"], seeds=[2, 7], settings=settings).write(tmp_path / "c")
    resumed = lada("compare", "--out", tmp_path / "c", "--resume", "--dry-run")
    assert "2 of 2 runs to do, 3 at a time" in resumed.stdout, resumed.stderr


def is_alive(process: str) -> bool:
    """Whether it runs: not ended, and not waiting to be noticed by its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_comparison_killed_as_a_whole_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    longer = ["--rounds=4", "--set=epochs=30"]

    def arguments(out: str) -> list[object]:
        methods = ["--methods", "random,lada-var-stn", "--seeds", "1", "--jobs", 2]
        return ["compare", "--out", tmp_path / out, "--data", tiny_folder, *methods, *OPTIONS, *longer]

    def events(out: str) -> dict[str, list[dict[str, object]]]:
        journals = (tmp_path / out).glob("*/seed-1/rounds.jsonl")
        whole_lines = {path.parts[-3]: re.findall(r".+(?=\n)", path.read_text()) for path in journals}
        return {name: [{**json.loads(line), "seconds": None} for line in lines] for name, lines in whole_lines.items()}

    assert process(*arguments("whole")).returncode == 0
    command = [sys.executable, "-m", "lada_al", *map(str, arguments("killed"))]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(map(len, events("killed").values())) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert events("killed") != events("whole")
    assert len(workers) >= 2
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, workers))  # nothing is left behind
    assert process(*arguments("killed"), "--resume").returncode == 0
    assert events("killed") == events("whole")


def begin_a_comparison(out: Path, tiny_folder: Path, *more: str) -> subprocess.Popen[str]:
    """Four runs, two at a time, in a process group of their own, as at a terminal."""
    arguments = ["--out", out, "--data", tiny_folder, "--methods=random,entropy", "--seeds=2", "--jobs=2", *OPTIONS]
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # ignored in the background
    return subprocess.Popen(
        [sys.executable, "-c", f"{heed}; from lada_al.cli import main; main()", "compare", *map(str, arguments),
         "--rounds=2", "--set=epochs=150", *more],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def ctrl_c(command: subprocess.Popen[str]) -> None:
    """Interrupts the whole group, and sees that it ends soon and in silence."""
    group = [path.name for path in Path("/proc").iterdir() if path.name.isdigit() and is_in_group(path, command.pid)]
    assert len(group) >= 3
    os.killpg(command.pid, signal.SIGINT)
    _, err = command.communicate(timeout=10)
    assert command.returncode == 130
    assert err == ""
    wait_for(lambda: not any(map(is_alive, group)))


def is_in_group(process: Path, group: int) -> bool:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[2]) == group
    except OSError:
        return False


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("more", [[], ["--stack-seeds"]])
def test_ctrl_c_ends_all_runs_at_once(more: list[str], tiny_folder: Path, tmp_path: Path) -> None:
    """As a kill of the whole does, after which it goes on."""
    out = tmp_path / "compare"
    command = begin_a_comparison(out, tiny_folder, *more)
    wait_for(lambda: sum(b"trained" in path.read_bytes() for path in out.glob("*/*/rounds.jsonl")) >= 2)
    begun = sorted(out.glob("*/*"))
    ctrl_c(command)
    assert sorted(out.glob("*/*")) == begun
    rounds = [len(journal.read(path)) for path in out.glob("*/*/rounds.jsonl")]
    assert sum(rounds) > 2
    assert min(rounds) < 6


def test_ctrl_c_ends_processes_that_are_only_starting(tiny_folder: Path, tmp_path: Path) -> None:
    command = begin_a_comparison(tmp_path / "compare", tiny_folder)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    wait_for(lambda: len(children.read_text().split()) >= 3)  # two workers, and what tracks their semaphores
    ctrl_c(command)
    assert [path.name for path in (tmp_path / "compare").iterdir()] == ["study.json"]


def test_interrupts_wait_though_another_thread_takes_them() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    ended = []

    def block() -> None:
        with _interrupts_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            ended.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            block()
        assert ended
    finally:
        done.set()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "lada-foo"], "unknown method 'lada-foo'; the nearest are lada-"),
        (["--dataset", "imagenet"], "unknown data set 'imagenet'; choose one of mnist5k, fashion"),
        (["--dataset", "cifar10"], "data set 'cifar10' needs --data DIR"),
        (["--dataset", "cifar10", "--data", "/nowhere"], "--data: there is no folder /nowhere"),
        (["--query", "5"], "lada-ent-mix buys pairs, so query must be even, got 5"),
        (["--initial", "9"], "initial must give each of the 10 classes a label, got 9"),
        (["--rounds", "1000"], "labels, but the pool of mnist5k has 4000 images"),
        (["--query", "9000"], "candidates must be at least query (9000), got 2000"),
        (["--set", "epochs"], "--set takes NAME=VALUE, got 'epochs'"),
        (["--set", "epoch=3"], "unknown setting 'epoch'; the nearest are epochs, "),
        (["--set", "epochs=few"], "epochs: Input should be a valid integer"),
        (["--set", "threads=100000"], "threads: Input should be less than or equal to 1024"),
        (["--preset", "mine"], "preset: Input should be 'clean', 'paper' or 'official'"),
        (["--device", "toaster"], "device 'toaster' cannot be used"),
        (["--device", "meta"], "device 'meta' cannot be used: it holds no numbers"),
        (["--device", "hpu"], "device 'hpu' cannot be used"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(
    lada: Lada, arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = lada("run", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("lada: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "random,random"], "--methods takes different names separated by commas"),
        ([], "--methods takes different names separated by commas, got ''"),
        (["--protocol", "huge"], "unknown protocol 'huge'; choose one of paper, table3, mini"),
        (["--methods", "random,nonsense"], "unknown method 'nonsense'"),
        (
            ["--methods", "random", "--seeds", "1,x"],
            "--seeds takes a number N, for seeds 1 to N, or different seeds with",
        ),
        (["--methods", "random", "--seeds", "1,-2"], "or different seeds with commas, or from A-B, got '1,-2'"),
    ],
)
def test_bad_comparisons_write_nothing(lada: Lada, arguments: list[str], message: str, tmp_path: Path) -> None:
    done = lada("compare", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_options_of_a_run_are_settings_by_the_same_names() -> None:
    """But for files, flags and --set, which takes the other settings; what compare has too is the same there."""
    commands, named = typer.main.get_group(cli.app).commands, {}
    for command in ("run", "compare"):
        hints = typing.get_type_hints(getattr(cli, command))
        files = {name for name, hint in hints.items() if Path in (hint, *typing.get_args(hint))}
        options = [option for option in commands[command].params if option.name not in files and not option.is_flag]
        named[command] = {option.opts[0].removeprefix("--"): option.name for option in options}
    assert len(named["run"]) > 10
    assert named["run"].pop("set") == "settings"
    assert all(option == field and field in Config.model_fields for option, field in named["run"].items())
    assert named["run"].keys() - named["compare"].keys() == {"method", "seed"}


def test_settings_are_listed_and_described(lada: Lada) -> None:
    lines = lada("settings").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines if not line.startswith("  ")] == list(Config.model_fields)
    assert all(field.description for field in Config.model_fields.values())


@pytest.mark.parametrize("command", ["run", "compare"])
def test_batches_of_training_have_no_option(command: str, lada: Lada, tmp_path: Path) -> None:
    done = lada(command, "--out", tmp_path / "a", "--batch", "diverse")
    assert (done.returncode, "No such option: --batch" in done.stderr) == (2, True)
    more = ["--methods", "random"] if command == "compare" else []
    done = lada(command, "--out", tmp_path / "a", "--selection", "divers", *more)
    assert (done.returncode, "selection: " in done.stderr) == (2, True)
    assert not (tmp_path / "a").exists()


def test_unknown_options_and_missing_reports(lada: Lada) -> None:
    assert lada("run", "--colour", "red").returncode == 2
    assert lada("report", "/nowhere").returncode == 2


def test_a_failure_inside_a_run_exits_with_1(lada: Lada, tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = lada("run", "--out", out, "--data", tiny_folder, "--method", "random", *OPTIONS)
    assert done.returncode == 0
    (out / "rounds.jsonl").unlink()
    (out / "rounds.jsonl").mkdir()
    done = process("run", "--out", out, "--resume")
    assert done.returncode == 1
    assert done.stderr.startswith("lada: [Errno 21] Is a directory: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--seeds=0"],
            "--seeds takes a number N, for seeds 1 to N, or different seeds with commas, or from A-B, got '0'",
        ),
        (
            ["--seeds=-1"],
            "--seeds takes a number N, for seeds 1 to N, or different seeds with commas, or from A-B, got '-1'",
        ),
        (
            ["--seeds=2,1,2"],
            "--seeds takes a number N, for seeds 1 to N, or different seeds with commas, or from A-B, got '2,1,2'",
        ),
        (["--seeds=1-3,2"], "or different seeds with commas, or from A-B, got '1-3,2'"),
        (["--seeds=3-1"], "or different seeds with commas, or from A-B, got '3-1'"),
        (["--set=seed=7"], "--set seed: lada compare takes --seeds"),
        (["--set=method=entropy"], "--set method: lada compare takes --methods"),
    ],
)
def test_what_compare_sets_itself_cannot_be_set(
    options: list[str], message: str, lada: Lada, tiny_folder: Path, tmp_path: Path
) -> None:
    done = lada("compare", "--methods=random", "--data", tiny_folder, "--out", tmp_path / "c", *OPTIONS, *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_comparison_of_initial_sets_alone(lada: Lada, tiny_folder: Path, tmp_path: Path) -> None:
    done = lada(
        "compare",
        "--methods=random",
        "--seeds=1",
        "--data",
        tiny_folder,
        "--out",
        tmp_path / "c",
        *OPTIONS,
        "--rounds=0",
    )
    assert done.returncode == 0, done.stderr


def test_methods(lada: Lada) -> None:
    table = lada("methods")
    assert table.returncode == 0
    for name in all_methods():
        assert name in table.stdout
    rows = json.loads(lada("methods", "--json").stdout)
    assert [row["name"] for row in rows] == list(all_methods())
    sizes = lada("methods", "--params").stdout
    assert re.search(r"lada-vaal-mix +378,815 +discriminator 301,569", sizes)
    assert "[autoencoder 1,428,001]" in sizes
    row = next(row for row in rows if row["name"] == "lada-ent-mix")
    assert row["look_ahead"]
    assert row["learn"]
    assert (row["acquisition"], row["augmentation"]) == ("entropy", "mix")


def test_doctor(lada: Lada) -> None:
    done = lada("doctor")
    assert done.returncode == 0, done.stdout
    for op in CASES:
        assert re.search(rf"^ *{op} +cpu +\S+ +ok", done.stdout, re.MULTILINE)
    assert "built for torch" in done.stdout


def test_folders_are_named_as_they_are_called(lada: Lada, tiny_folder: Path, tmp_path: Path) -> None:
    """Nothing in a name is taken for markup."""
    out = tmp_path / "a[bold]b[/red] :smile:"
    done = lada("run", "--out", out, "--data", tiny_folder, "--method=random", *OPTIONS)
    assert done.returncode == 0, done.stderr
    for printed in (done, lada("report", out)):
        assert f"report: {out / 'report.html'}" in printed.stdout


def test_version(lada: Lada) -> None:
    assert lada("--version").stdout == f"{lada_ext.__version__}\n"


def test_public_names_are_listed_and_there() -> None:
    assert dir(lada_al) == sorted(lada_al.__all__)
    assert {"ImageSpec", "SplitModel"} <= set(dir(lada_al))
    for name in dir(lada_al):
        assert getattr(lada_al, name).__name__ == name


def test_help_answers_without_torch() -> None:
    done = process("--help")
    assert done.returncode == 0
    for command in ("run", "compare", "methods", "report", "doctor"):
        assert re.search(rf"^ +{command} ", done.stdout, re.MULTILINE)
    code = "import sys, lada_al.cli; assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_ops_alone_have_a_command_that_says_what_it_lacks() -> None:
    code = "import sys; sys.modules['typer'] = None; from lada_al.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "lada: typer is not installed; `pip install 'lada-ext[al]'` installs what the command needs\n"


def test_every_command_and_method_is_in_the_docs() -> None:
    docs = "".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    for command in ("run", "compare", "methods", "report", "doctor"):
        assert f"lada {command}" in docs
    for group in GROUPS:
        for name in rows(group):
            assert f"`{name}`" in docs, name
    for name in [*acquire.names(), *augment.names(), *PROTOCOLS]:
        assert f"`{name}`" in docs, name
