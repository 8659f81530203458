"""A tuned study: its tuning runs, the choice, and the evaluation runs of what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from apl.config.config import Config
from apl.config.tuning import TunedGrid, part_of, setting_key
from apl.errors import BadInput
from apl.runs.record import begun_in, read_runs
from apl.runs.tuned import Tuned, tuned_in, write_tuning
from apl.study.run import Progress


def require_own_folder(study: Path, tuned: bool) -> None:
    """Raise BadInput where a folder holds runs of a tuned study and the one that is asked for is
    not, or the other way round: one table can't compare the two."""
    holds = {bool(part_of(config)) for config in begun_in(study).values()}
    if holds == {not tuned}:
        what = "runs that were not tuned" if tuned else "a study with --tune"
        raise BadInput(f"{study} holds {what}: choose another --out")


def tune(
    grid: TunedGrid, study: Path, run: Callable[[Sequence[Config]], Progress]
) -> tuple[Progress, list[Tuned], list[Config]]:
    """Train the tuning runs that are not there yet, by `run`, and choose; tuning.csv is written.

    Returns the progress of these runs, what was tried of each loss under each noise setting, and
    the evaluation cells of what was chosen.  Where tuning runs failed nothing is chosen of their
    loss and setting.
    """
    asked = grid.to_tune()
    progress = run(asked)
    keys = {setting_key(a): setting_key(b) for a, b in zip(asked, progress.cells, strict=True)}
    failed = {
        setting_key(a)
        for a, b in zip(asked, progress.cells, strict=True)
        if b.name not in progress.results
    }
    found = tuned_in(read_runs(study)) if progress.results else {}
    ours = {key: found[begun] for key, begun in keys.items() if begun in found}
    if found:
        write_tuning(study, list(found.values()))
    chosen = {key: each.record for key, each in ours.items() if key not in failed}
    return progress, list(ours.values()), grid.to_judge(chosen)
