"""The regret of each rule a person could follow, from the records of studies.

    python benchmarks/experiments/regret.py [results/evidence/cifar10-laptop ...]

A rule takes the same loss always; in a tuned study at the step that held-out given labels choose
for it, and one rule has these labels choose the loss too.  Its regret in a noise setting is the
mean accuracy of the best loss there, in hindsight, less that of the rule, in points.  Prints a
Markdown table: a row a rule that every study has, its regret on average / at worst in each study,
and over all settings of all of them, least first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from apl.report.study import Study, studies
from apl.report.tuning import Regret, regrets
from apl.runs.record import read_runs

EVIDENCE = Path(__file__).resolve().parents[2] / "results" / "evidence"
USUAL = [EVIDENCE / name for name in ("cifar10-laptop", "mnist-laptop")]


def rules_of(folder: Path) -> tuple[Study, dict[str, Regret]]:
    """A study, and the regret of each rule that has all its settings."""
    (study,) = studies(read_runs(folder))
    return study, {rule.name: rule for rule in regrets(study)}


def table(folders: Sequence[Path]) -> str:
    """The table of some studies."""
    found = [rules_of(folder) for folder in folders]
    shared = [name for name in found[0][1] if all(name in rules for _, rules in found)]
    counts = [study.runs["setting"].nunique() for study, _ in found]
    rows = []
    for name in shared:
        rules = [of[name] for _, of in found]
        mean = sum(rule.mean * n for rule, n in zip(rules, counts, strict=True)) / sum(counts)
        worst = max(rule.worst for rule in rules)
        cells = [f"{rule.mean:.1f} / {rule.worst:.1f} ({rule.where})" for rule in rules]
        rows.append((mean, [name, *cells, f"{mean:.1f} / {worst:.1f}"]))
    head = ["rule", *(folder.name for folder in folders), "both" if len(folders) == 2 else "all"]
    lines = [head, ["---"] * len(head), *(row for _, row in sorted(rows, key=lambda r: r[0]))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", default=USUAL)
    print(table(parser.parse_args().folders))


if __name__ == "__main__":
    main()
