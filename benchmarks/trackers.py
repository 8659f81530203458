"""What a tracker costs: runs of the record of the laptop study told to it, once and again.

python benchmarks/trackers.py tensorboard --runs 20
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path

from apl.runs.record import read_runs
from apl.runs.run import RECORD
from apl.study.trackers import TRACKERS, _about, _row, import_runs

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("tracker", choices=TRACKERS)
    asked.add_argument("--runs", type=int, default=20)
    given = asked.parse_args()
    study = Path(tempfile.mkdtemp(prefix=f"apl-{given.tracker}-"))
    os.environ["TRACKIO_DIR"] = str(study / "trackio")
    try:
        with (ROOT / "results/evidence/cifar10-laptop" / RECORD).open() as lines:
            (study / RECORD).write_text("".join(islice(lines, given.runs)))
        record = (study / RECORD).stat().st_size
        first = read_runs(study)[0]

        marks = [time.perf_counter()]
        begun = TRACKERS[given.tracker](_about(study, "first", first.config))
        marks.append(time.perf_counter())
        assert begun is not None
        for row in first.history:
            begun.row(int(row["epoch"]), _row(row))
        marks.append(time.perf_counter())
        begun.end(0, None)
        for expected in ((given.runs, 0), (0, given.runs)):
            marks.append(time.perf_counter())
            assert import_runs(study, given.tracker) == expected
            marks.append(time.perf_counter())
        written = sum(f.stat().st_size for f in study.rglob("*") if f.is_file()) - record
    finally:
        shutil.rmtree(study)
    print(
        f"{given.tracker}: first begin {marks[1] - marks[0]:.1f} s, a row of "
        f"{len(first.history)} {1e3 * (marks[2] - marks[1]) / len(first.history):.2f} ms, a run "
        f"imported {1e3 * (marks[4] - marks[3]) / given.runs:.0f} ms, a run found whole "
        f"{1e3 * (marks[6] - marks[5]) / given.runs:.0f} ms, "
        f"{written / (given.runs + 1) / 1e3:.0f} kB a run"
    )


if __name__ == "__main__":
    main()
