"""python -m bench [FAMILY ...]: the ops against eager torch, torch.compile and named peers, as a table and as CSV.

Without families all of them run. A wrong result stops the run. Each family's results are written as
<family>-<device>.csv when it is done: into bench/results, but with --quick or --case only into a folder given by --out.
One .csv for all, given by --out, grows case by case.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch

from bench import harness, results


def arguments() -> argparse.Namespace:
    known = harness.families()
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(known))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, help="folder of the CSV files, or one .csv for all")
    parser.add_argument("--case", default="", metavar="REGEX", help="only cases whose name holds this")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, to look rather than to report")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.families) - set(known))
    if unknown:
        parser.error(f"no family {', '.join(unknown)}; there are {', '.join(known)}")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no GPU")
    chosen.families = chosen.families or known
    if chosen.out is None and not (chosen.quick or chosen.case):
        chosen.out = harness.FOLDER / "results"
    return chosen


def main() -> None:
    chosen = arguments()
    effort = harness.QUICK if chosen.quick else harness.THOROUGH
    origin = results.provenance(chosen.device)
    everything: list[dict[str, str]] = []
    for family in chosen.families:
        measured: list[harness.Result] = []
        for case in harness.cases(family, chosen.device):
            if not re.search(chosen.case, case.name):
                continue
            print(f"{family}: {case.name}", file=sys.stderr, flush=True)
            measured += harness.measure(case, chosen.device, effort)
            if chosen.out and chosen.out.suffix == ".csv":
                results.write_csv(chosen.out, everything + results.rows(measured, origin))
        if not measured:
            continue
        results.show(f"{family} on {origin['device']}, {origin['host']}, commit {origin['commit']}", measured)
        rows = results.rows(measured, origin)
        everything += rows
        if chosen.out and chosen.out.suffix != ".csv":
            results.write_csv(chosen.out / f"{family}-{chosen.device}.csv", rows)


if __name__ == "__main__":
    try:
        main()
    except harness.WrongResultError as error:
        sys.exit(f"wrong result: {error}")
