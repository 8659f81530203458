"""Loss, scale or regulariser: plain nce + c (1 - p_y) beside the named methods.

    python benchmarks/experiments/scale.py results/cifar10-sweep results/mnist-sweep
                                           [--out docs/scale]

Reads the records of studies that `apl study` made with losses such as 'nce + 2.5*mae' (mae is
2 (1 - p_y), so its weight is c / 2) under weight decay and under an L1 norm, and with the named
methods at their published settings.  Prints Markdown tables of last epochs and of how far each
method is from the plain sum of its own c, and draws OUT.png.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from apl.losses.catalog import loss_label
from apl.report.statistics import estimate
from apl.report.study import studies
from apl.runs.record import read_runs

# -g_y / p_y of the passive part, in units of alpha, between its values at p_y = 0 and 1 (see the
# table of docs/scale.md); none where the negative part is no function of p_y.
SCALE = {
    "cifar10": {"nce_mae": 1.0, "nce_rce": 9.21, "nce_agce": 10.2, "nce_aul": 9.6, "jal_ce": 6.0},
    "mnist": {"nce_mae": 10.0, "nce_rce": 92.1},
}
MARKERS = {"ce": "X", "anl_ce": "v", "jal_ce": "^", "nce_mae": "D", "nce_rce": "s"}
MARKERS |= {"nce_agce": "P", "nce_aul": "o"}
COLORS = {"L2": "#0072b2", "L1": "#d55e00"}
PLAIN = re.compile(r"nce \+ (?:([0-9.]+)\*)?mae")


def cells(folder: Path) -> pd.DataFrame:
    """The runs of a study, as `apl.report.study.studies` has them, with 'plain' as the loss of the
    plain sums, and c (nan for a method without one) and the norm of the weights."""
    (study,) = studies(read_runs(folder))
    runs = study.runs.sort_values("rank", kind="stable")
    plain = runs["loss"].map(PLAIN.fullmatch)
    named = runs["loss"].map(SCALE[runs["dataset"].iloc[0]])
    runs["c"] = [2 * float(m[1] or 1) if m else c for m, c in zip(plain, named, strict=True)]
    runs["norm"] = ["L1" if config.l1 > 0 else "L2" for config in runs["config"]]
    return runs.assign(loss=runs["loss"].where(plain.isna(), "plain"))


def text(values: pd.Series[float]) -> str:
    """Mean and standard deviation over the seeds."""
    spread = f" ± {values.std():.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def plain_at(frame: pd.DataFrame, c: float) -> pd.Series[float]:
    """The accuracy of the plain sum at a c that was not run, by seed: linear in log c."""
    table = frame.pivot_table(index="seed", columns="c", values="test_accuracy").dropna()
    scales = np.log(table.columns.to_numpy(float))
    return table.apply(lambda row: float(np.interp(np.log(c), scales, row.to_numpy())), axis=1)


def tables(frame: pd.DataFrame) -> str:
    """The tables of one data set, in Markdown, and how many differences two one-sided tests call
    level."""
    settings = frame["setting"].unique()
    plain, named = (frame[(frame["loss"] == "plain") == is_plain] for is_plain in (True, False))
    dataset = frame["dataset"].iloc[0]
    lines = [f"| {dataset}, nce + c (1 - p_y) | {' | '.join(settings)} |"]
    lines.append("| --- " * (1 + len(settings)) + "|")
    for norm in COLORS:
        for c, rows in plain[plain["norm"] == norm].groupby("c"):
            found = [rows.loc[rows["setting"] == s, "test_accuracy"] for s in settings]
            lines.append(f"| c = {c:g}, {norm} | {' | '.join(map(text, found))} |")
    lines += ["", f"| method | c | {' | '.join(f'{s} | less the plain sum' for s in settings)} |"]
    lines.append("| --- " * (2 + 2 * len(settings)) + "|")
    differences = []
    for loss, rows in named.groupby("loss"):
        c, norm = rows[["c", "norm"]].iloc[0]
        columns = []
        for setting in settings:
            ours = rows[rows["setting"] == setting].set_index("seed")["test_accuracy"]
            beside = plain[(plain["setting"] == setting) & (plain["norm"] == norm)]
            known = beside["c"].min() <= c <= beside["c"].max()  # not where c is nan
            told = ""
            if known and loss != "nce_mae":  # which is the plain sum of c = 1, to the bit
                apart = (ours - plain_at(beside, c)).dropna()
                differences.append(apart)
                margin = estimate(apart.tolist())
                told = f"{margin.mean:+.1f} ({margin.low:+.1f} to {margin.high:+.1f})"
            columns += [text(ours), told]
        shown = f"{c:g}" if np.isfinite(c) else ""
        lines.append(f"| {loss_label(str(loss))}, {norm} | {shown} | {' | '.join(columns)} |")
    if differences:
        lines += ["", level(differences)]
    return "\n".join(lines)


def level(differences: Sequence[pd.Series[float]]) -> str:
    """How many of the differences lie within 1 and within 2 points of 0 by two one-sided t-tests at
    5 %, which is to say that the 90 % interval does."""
    found = [estimate(apart.tolist(), 0.9) for apart in differences]
    counts = [sum(-margin < each.low and each.high < margin for each in found) for margin in (1, 2)]
    return (
        f"Of {len(differences)} differences two one-sided tests call {counts[0]} level within 1 "
        f"point, {counts[1]} within 2."
    )


def draw(frames: list[pd.DataFrame], file: Path) -> None:
    """Accuracy against c, a row a data set and a column a setting, the methods at their c."""
    settings = frames[0]["setting"].unique()
    size = (4 * len(settings), 3.4 * len(frames))
    figure, grid = plt.subplots(
        *(len(frames), len(settings)), figsize=size, squeeze=False, layout="constrained"
    )
    for line, frame in zip(grid, frames, strict=True):
        for axes, setting in zip(line, settings, strict=True):
            here = frame[frame["setting"] == setting]
            plain = here[here["loss"] == "plain"]
            for norm, color in COLORS.items():
                means = plain[plain["norm"] == norm].groupby("c")["test_accuracy"]
                means = means.agg(["mean", "std"])
                axes.errorbar(
                    *(means.index, means["mean"], means["std"]),
                    **{"marker": "o", "ms": 4, "color": color, "capsize": 2},
                    label=f"nce + c (1 - p), {norm}",
                )
            for loss, marker in MARKERS.items():
                rows = here[here["loss"] == loss]
                c, norm = rows[["c", "norm"]].iloc[0]
                at = c if np.isfinite(c) else 0.35  # those without one stand at the left
                axes.plot(
                    *(at, rows["test_accuracy"].mean(), marker),
                    **{"color": COLORS[norm], "mfc": "none", "ms": 8, "label": loss_label(loss)},
                )
            axes.set(xscale="log", title=f"{here['dataset'].iloc[0]}, {setting}", xlabel="c")
            axes.grid(True, color="#dddddd")
        line[0].set_ylabel("test accuracy (%)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(file, dpi=130, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/scale"))
    given = parser.parse_args()
    frames = [cells(folder) for folder in given.studies]
    print("\n\n".join(map(tables, frames)))
    draw(frames, given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
