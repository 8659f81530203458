"""A study as one HTML file that needs nothing else: what was run, the tables, every picture, which
claims of the paper hold here, and what went wrong.

The contents are put together here; how they look is written in `page.jinja`, which escapes
every name that comes from a file.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from apl.config import PRESETS, Config, make_config
from apl.errors import BadInput
from apl.losses import loss_label
from apl.report.claims import (
    ASYM,
    CLAIMS,
    CLEAN,
    COMBINATIONS,
    SYM,
    VERDICTS,
    Finding,
    agreement,
    best_losses,
    find,
    recipes,
    standard_errors,
)
from apl.report.pictures import (
    Study,
    draw_study,
    look,
    mean_std,
    method_label,
    own_settings,
    render,
    setting_name,
    studies,
)
from apl.report.published import published_rows, published_table
from apl.runs import (
    HISTORY_COLUMNS,
    find_studies,
    read_config,
    read_json,
    read_study,
    read_summary,
)
from apl.scores import Scores
from apl.study import study_commands
from apl.train import CAUSES

MANY_CLASSES = 20  # more of them stand below each other, for want of width

# ------------------------------------------------------------------------------- what a page holds


@dataclass(frozen=True)
class Cell:
    """A cell: text, what to sort it by, a second line, a share (0 to 1) that colours it, whether it
    is the best of its column, and a verdict to mark it with."""

    text: str
    order: float | None = None
    below: str = ""
    heat: float | None = None
    best: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its headings, rows of a name and cells, and notes to stand below."""

    caption: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    notes: Sequence[str] = ()
    words: bool = False  # cells of words stand to the left, those of numbers to the right


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI: its width in pixels, what it shows, and for whom can't see it."""

    uri: str
    width: int
    caption: str
    alt: str


@dataclass(frozen=True)
class Block:
    """A piece of a section: a title, paragraphs, a table, and tables to unfold."""

    title: str = ""
    text: Sequence[str] = ()
    table: Table | None = None
    folded: Sequence[tuple[str, Table]] = ()


@dataclass(frozen=True)
class Part:
    """What a page says of one data set and preset."""

    name: str
    short: Sequence[str]
    facts: Sequence[tuple[str, str]]
    commands: Sequence[str]
    pictures: Sequence[Picture]  # of all methods together
    of_each: Sequence[Picture]  # one for each method
    sections: Mapping[str, Sequence[Block]]  # by the names that the template gives them
    agreement: str


@dataclass(frozen=True)
class Report:
    """A page, and how far the study agrees with the published ranking, a line a data set."""

    html: str
    agreement: Sequence[str]


# ----------------------------------------------------------------------------- a study's files


@dataclass(frozen=True)
class Material:
    """What a study folder holds: its runs, their histories (None where there are no run folders),
    and by run folder the configs and environments, those of unfinished runs included."""

    name: str
    summary: pd.DataFrame
    histories: pd.DataFrame | None
    configs: Mapping[str, Config]
    environments: Mapping[str, Mapping[str, Any]]


def read_material(folder: Path) -> Material:
    """Read a study folder; one without its run folders is read from summary.csv alone."""
    below = find_studies(folder)
    name = folder.resolve().name
    if folder not in below:
        if (folder / "summary.csv").is_file():
            return Material(name, read_summary(folder), None, {}, {})
        hint = f"; give one of {', '.join(map(str, below))}" if below else ""
        raise BadInput(f"{folder} is no study: it has no finished run and no summary.csv{hint}")
    configs, environments = {}, {}
    for file in sorted(folder.glob("runs/*/config.json")):
        run = file.parent
        try:
            configs[run.name] = read_config(run)
        except BadInput:  # read_study tells of a finished run; another one has nothing to show
            continue
        found = read_json(file).get("environment")
        environments[run.name] = found if isinstance(found, dict) else {}
    return Material(name, *read_study(folder), configs, environments)


# ----------------------------------------------------------------------------------------- sections


def _settings(study: Study) -> list[str]:
    return list(study.runs.sort_values("rank")["setting"].unique())


def _method_runs(study: Study) -> Iterable[tuple[str, pd.DataFrame]]:
    for method in study.styles:
        yield method, study.runs[study.runs["method"] == method]


def _grid_table(study: Study, caption: str, make: Callable[[pd.DataFrame], Cell]) -> Table:
    """Methods by noise settings: `make` turns the runs of a cell into what stands there. Settings
    without anything are left out."""
    columns = {
        setting: [
            make(runs) if len(runs) else Cell("")
            for _, of_method in _method_runs(study)
            for runs in [of_method[of_method["setting"] == setting]]
        ]
        for setting in _settings(study)
    }
    columns = {name: cells for name, cells in columns.items() if any(c.text for c in cells)}
    rows = zip(*columns.values(), strict=True) if columns else ()
    return Table(caption, ["Method", *columns], list(zip(study.styles, rows, strict=False)))


def _accuracy(study: Study, published: pd.DataFrame | None) -> list[Block]:
    """Mean ± std of every method and setting above what was published, and their difference."""
    runs = study.runs
    seeds = int(runs.groupby(["setting", "method"])["seed"].nunique().max())
    means = runs.groupby(["setting", "method"])["test_accuracy"].mean().dropna()
    best, count = means.groupby("setting").max(), means.groupby("setting").size()
    rows = [] if published is None else published.to_dict("records")
    theirs = {(r["method"], r["noise"], round(100 * float(r["rate"]), 4)): r for r in rows}
    papers: list[str] = []

    def beside(runs: pd.DataFrame) -> dict[Any, Any] | None:
        first = runs.iloc[0]
        key = first["loss"], first["noise"], first["x"]
        return theirs.get(key) if first["standard"] else None

    def ours(runs: pd.DataFrame) -> Cell:
        setting, mean = runs.iloc[0]["setting"], float(runs["test_accuracy"].mean())
        text = mean_std(mean, runs["test_accuracy"].std())
        if len(runs) != seeds:
            text += f" (n = {len(runs)})"
        text += "†" * bool(runs["collapsed"].any())
        row, below = beside(runs), ""
        if row is not None:
            if row["paper"] not in papers:
                papers.append(row["paper"])
            below = mean_std(row["mean"], row["std"]) + _raised(papers.index(row["paper"]))
        top = count.get(setting, 0) > 1 and f"{mean:.2f}" == f"{best[setting]:.2f}"
        return Cell(text, mean, below, best=top)

    def difference(runs: pd.DataFrame) -> Cell:
        row, mean = beside(runs), float(runs["test_accuracy"].mean())
        if row is None or math.isnan(mean):
            return Cell("")
        return Cell(f"{mean - row['mean']:+.2f}", mean - row["mean"])

    table = _grid_table(study, "Accuracy on clean test labels after the last epoch, in %", ours)
    spread = f"Mean ± std over {seeds} seeds, unless n says otherwise" if seeds > 1 else "One seed"
    notes = [f"{spread}; the best of each column is in bold."]
    if runs["collapsed"].any():
        notes.append("† with a collapsed run.")
    if papers:
        notes.append("Below each figure of this study stands the published one, in small print.")
    notes += [f"{_raised(index)} {paper}." for index, paper in enumerate(papers)]
    blocks = [Block(table=dataclasses.replace(table, notes=notes))]
    if papers:
        caption = "This study less the published figure, in points"
        blocks.append(Block(folded=[(caption, _grid_table(study, caption, difference))]))
    return blocks


def _raised(index: int) -> str:
    return "¹²³⁴⁵⁶⁷⁸⁹"[index % 9]


def _memory(study: Study) -> list[Block]:
    """What was memorised, what recovered, and the accuracy on the training labels as given."""
    blocks = []
    for score, caption in (
        ("memorised", "Memorised: wrong training labels predicted as given, in %"),
        ("recovered", "Recovered: wrong training labels predicted as the true class, in %"),
        ("train_accuracy", "Accuracy on the training labels as given, in %"),
    ):

        def cell(runs: pd.DataFrame, score: str = score) -> Cell:
            mean = float(runs[score].mean())
            if math.isnan(mean):
                return Cell("")
            return Cell(mean_std(mean, runs[score].std()), mean, heat=mean / 100)

        table = _grid_table(study, caption, cell)
        if len(table.head) > 1:
            blocks.append(Block(table=table))
    return blocks


def _per_class(study: Study) -> list[Block]:
    """For each setting the accuracy of each class under each method, to unfold."""
    folded = []
    for setting in _settings(study):
        rows: list[tuple[str, list[Cell]]] = []
        gave_up = []
        for method, of_method in _method_runs(study):
            runs = of_method[of_method["setting"] == setting]
            lists = [values for values in runs["per_class_accuracy"] if len(values)]
            if not lists:
                continue
            given_up = Counter(k for confusion in runs["confusion"] for k in _given_up(confusion))
            if given_up:
                gave_up.append(method)
            cells = []
            for k, share in enumerate(np.array(lists, dtype=float).mean(axis=0).tolist()):
                if math.isnan(share):  # a class without test images
                    cells.append(Cell("-"))
                    continue
                flag = f"∅ {given_up[k]}/{len(runs)}" if given_up[k] else ""
                cells.append(Cell(f"{100 * share:.1f}", share, flag, heat=share))
            rows.append((method, cells))
        if not rows:
            continue
        head = ["Method", *study.classes]
        if len(study.classes) > MANY_CLASSES:
            head = ["Class", *(method for method, _ in rows)]
            columns = zip(*(cells for _, cells in rows), strict=True)
            rows = [(name, list(cells)) for name, cells in zip(study.classes, columns, strict=True)]
        notes = ["∅ 2/3: 2 of 3 runs never predict this class."] if gave_up else []
        caption = f"Accuracy of each class in %, {setting}"
        title = f"{setting}; with a class given up: {', '.join(gave_up)}" if gave_up else setting
        folded.append((title, Table(caption, head, rows, notes)))
    return [Block(folded=folded)] if folded else []


def _given_up(confusion: Sequence[Sequence[int]]) -> list[int]:
    """The classes that a run never predicts; none where its confusion matrix is not at hand."""
    return Scores(np.array(confusion)).never_predicted if len(confusion) else []


# ------------------------------------------------------------------------------------------- claims


def _claims(summary: pd.DataFrame) -> tuple[list[Block], list[Finding]]:
    """The findings idea by idea, for every recipe of the study."""
    blocks, everything = [], []
    found_recipes = recipes(summary)
    for name, runs in found_recipes:
        findings = [find(runs, claim) for claim in CLAIMS]
        everything += findings
        title = name if len(found_recipes) > 1 else ""
        blocks.append(Block(title, _how_sure(findings)))
        for idea, group in itertools.groupby(findings, lambda finding: finding.claim.idea):
            blocks += _idea(idea, [finding for finding in group if len(finding.margins)])
        blocks += _best(runs)
        blocks += _not_run([finding for finding in findings if not len(finding.margins)])
    return blocks, everything


def _how_sure(findings: Sequence[Finding]) -> list[str]:
    """What the test can tell, and what it can't."""
    text = [
        "Two runs of the same noise setting and seed have the same wrong labels and the same "
        "initial weights, so losses are compared in pairs. The margin of a claim is averaged over "
        "its settings for each seed; the interval and p are those of a paired t-test over the "
        "seeds. Margins are in points, of accuracy or of the share of wrong labels memorised; "
        "a positive one speaks for the claim."
    ]
    tested = [finding.estimate.count for finding in findings if finding.estimate.count > 1]
    if not tested:
        return [*text, "With one seed there is a margin, but no telling how far chance moves it."]
    reach = {count: standard_errors(count) / math.sqrt(count) for count in sorted(set(tested))}
    needed = ", ".join(f"{times:.2f} times with {count} seeds" for count, times in reach.items())
    text.append(
        "So few seeds tell little: a margin counts only where it exceeds its standard deviation "
        f"over the seeds {needed}, and the test assumes margins that are normally distributed, "
        "which so few can't show. 'Undecided' is no evidence that there is no difference."
    )
    text.append(
        f"{len(tested)} claims are tested at 5 % each, without correction: of margins that are "
        "truly 0, about one in twenty would be called by chance."
    )
    return text


def _idea(title: str, findings: Sequence[Finding]) -> list[Block]:
    """The findings on one idea, those of claims that were run."""
    if not findings:
        return []
    rows = []
    for finding in findings:
        found, verdict = finding.estimate, finding.verdict
        tested = found.count > 1
        lacks = f"lacks {', '.join(finding.missing)}" if finding.missing else ""
        cells = [
            Cell(verdict, -VERDICTS.index(verdict), verdict=verdict),
            Cell(f"{found.mean:+.2f}", found.mean),
            Cell(f"{found.low:+.2f} to {found.high:+.2f}" if tested else "", found.low),
            Cell(_p(found.p) if tested else "", found.p),
            Cell(str(found.count), found.count),
            Cell(finding.claim.where.name, below=lacks),
        ]
        rows.append((finding.claim.statement, cells))
    head = ["Claim", "Verdict", "Margin", "95 % interval", "p", "Seeds", "Where"]
    notes = [
        f"The margin of the claim of {finding.claim.least:g} points or more is what exceeds them."
        for finding in findings
        if finding.claim.least
    ]
    table = Table(title, head, rows, notes, words=True)
    return [Block(title, table=table, folded=[_margins(findings)])]


def _not_run(findings: Sequence[Finding]) -> list[Block]:
    """The claims that the study can say nothing of, and what it lacks for them."""
    if not findings:
        return []
    rows = [
        (
            finding.claim.statement,
            [Cell(finding.claim.where.name), Cell(", ".join(finding.missing))],
        )
        for finding in findings
    ]
    caption = "Claims that were not run"
    table = Table(caption, ["Claim", "Where", "The study lacks"], rows, words=True)
    return [Block(folded=[(f"{caption} ({len(rows)})", table)])]


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _margins(findings: Sequence[Finding]) -> tuple[str, Table]:
    """The margins of some claims in each setting, as a title and a table."""
    named = pd.concat([finding.margins.mean(axis=1) for finding in findings], axis=1)
    settings = list(named.index)
    several = len({finding.claim.where for finding in findings}) > 1
    rows = []
    for finding in findings:
        cells = []
        for setting in settings:
            if setting not in finding.margins.index:
                cells.append(Cell(""))
                continue
            margins = finding.margins.loc[setting]
            text = f"{margins.mean():+.2f}"
            if len(margins) > 1:
                text += f" ± {margins.std():.2f}"
            cells.append(Cell(text, float(margins.mean())))
        where = f" ({finding.claim.where.name})" if several else ""
        rows.append((finding.claim.statement + where, cells))
    caption = "Margin in each noise setting, in points, mean ± std over the seeds"
    return "Margins setting by setting", Table(caption, ["Claim", *settings], rows)


def _best(runs: pd.DataFrame) -> list[Block]:
    """Which losses lead in each noisy setting; nothing where a combination was not run."""
    if not set(COMBINATIONS) < set(runs["loss"]):
        return []
    order = best_losses(runs)
    rows = []
    for row in order.to_dict("records"):
        leading = ", ".join(map(loss_label, row["losses"][:4]))
        answers = ["yes" if row[name] else "no" for name in ("best", "best_four")]
        rows.append((str(row["setting"]), [Cell(leading), *map(Cell, answers)]))
    text = (
        f"By mean accuracy, a combination is the best loss in {order['best'].sum()} of "
        f"{len(order)} noisy settings, and the four combinations are the best four in "
        f"{order['best_four'].sum()}."
    )
    head = ["Setting", "Best four, best first", "Best is a combination", "All four are"]
    caption = "The best four losses in each noisy setting"
    return [Block("Which losses lead", [text], Table(caption, head, rows, words=True))]


# ---------------------------------------------------------------------------------------- agreement


def _agreement(summary: pd.DataFrame) -> tuple[list[Block], str]:
    """How far our ranking agrees with each paper's, and the line that says it of the first."""
    dataset = summary["dataset"].iloc[0]
    published = published_rows()
    published = published[published["dataset"] == dataset]
    if published.empty:
        line = f"no paper's figures for {dataset} are at hand"
        return [Block(text=[f"N{line[1:]}."])], line
    by_paper = {
        str(paper): agreement(summary, rows)
        for paper, rows in published.groupby("paper", sort=False)
    }
    text = [
        "Every two losses that the study and a paper both ran in the same setting make a pair; it "
        "counts +1 where both put them in the same order and -1 where they do not. So 1 is the "
        "same order, -1 the reverse, and about 0 two orders that have nothing in common. "
        "Apart are the two losses that the paper itself can tell apart, since they differ by more "
        "than the sum of its standard deviations."
    ]
    overall = dict(by_paper)
    if len(by_paper) > 1:
        overall["All papers, each within itself"] = agreement(summary, published)
        kinds = [
            (where, summary[list(map(where.covers, summary["noise"], summary["rate"]))])
            for where in (CLEAN, SYM, ASYM)
        ]
        for where, runs in kinds:
            if 0 < len(runs) < len(summary):
                overall[f"All papers, {where.name}"] = agreement(runs, published)
    rows = []
    for paper, found in overall.items():
        values = (found.overall, len(found.pairs), found.overall_apart, found.pairs["apart"].sum())
        cells = [_number(value, "d" if k % 2 else "+.2f") for k, value in enumerate(values)]
        rows.append((paper, cells))
    head = ["Paper", "Agreement", "Pairs", "Agreement where apart", "Pairs apart"]
    caption = "Pairs in the same order less pairs in the reverse one, as a share of all pairs"
    blocks = [Block(text=text, table=Table(caption, head, rows))]
    settings = pd.concat([found.settings for found in by_paper.values()], ignore_index=True)
    several = settings["recipe"].nunique() > 1
    rows = []
    for (recipe, setting), part in settings.groupby(["recipe", "setting"], sort=False):
        cells = []
        for paper in by_paper:
            one = part[part["paper"] == paper]
            if one.empty:
                cells.append(Cell(""))
                continue
            cell = _number(float(one["tau"].iloc[0]), "+.2f")
            cells.append(dataclasses.replace(cell, below=f"{one['losses'].iloc[0]} losses"))
        rows.append((f"{setting} ({recipe})" if several else str(setting), cells))
    caption = "Kendall's tau-b with the published ranking, over the losses that both ran"
    if rows:
        notes = ["A dash: fewer than three losses, or no order among them."]
        blocks.append(Block(table=Table(caption, ["Setting", *by_paper], rows, notes)))
    first = next(iter(by_paper))
    return blocks, f"{first}: {by_paper[first]}"


def _number(value: float, form: str) -> Cell:
    return Cell("-") if math.isnan(value) else Cell(format(value, form), float(value))


# ----------------------------------------------------------------------------- what went wrong


def _grid(study: Study, unfinished: Iterable[Config]) -> set[tuple[str, str, int]]:
    """The cells (method, setting, seed) of the grid that the runs span, begun ones included."""
    runs = study.runs
    methods, settings = set(runs["method"]), set(runs["setting"])
    seeds = {int(seed) for seed in runs["seed"]}
    for config in unfinished:
        if config.noise == "matrix":  # named by the rate that its labels come to, not known yet
            continue
        clean = config.rate == 0 and config.noise != "human"
        noise, table = ("none", "") if clean else (config.noise, config.map)
        methods.add(method_label(config.loss, own_settings(config.variant, study.shared)))
        settings.add(setting_name(noise, table, 100 * config.rate))
        seeds.add(config.seed)
    return set(itertools.product(methods, settings, seeds))


def _problems(study: Study, missing: Iterable[tuple[str, str, int]]) -> list[Block]:
    """Collapsed runs, budgets too short to tell, classes given up and cells not run."""
    order = {name: rank for rank, name in enumerate([*study.styles, *_settings(study)])}
    runs = study.runs.sort_values(["rank", "seed"])
    runs = runs.sort_values("method", key=lambda m: m.map(order), kind="stable")

    def rows(
        chosen: pd.DataFrame, tell: Callable[[pd.DataFrame], str]
    ) -> list[tuple[str, list[Cell]]]:
        groups = chosen.groupby(["method", "setting"], sort=False)
        return [
            (str(method), [Cell(str(setting)), Cell(_list(part["seed"])), Cell(tell(part))])
            for (method, setting), part in groups
        ]

    def block(title: str, text: str, last: str, found: list[tuple[str, list[Cell]]]) -> Block:
        head = ["Method", "Setting", "Seeds", last]
        return Block(title, [text], Table(title, head, found, words=True))

    def classes(part: pd.DataFrame) -> str:
        names = [
            names[k]
            for names, confusion in zip(part["class_names"], part["confusion"], strict=True)
            for k in _given_up(confusion)
        ]
        return ", ".join(dict.fromkeys(names))

    collapsed = runs["collapsed"].astype(bool)
    short = runs["too_short"].astype(bool)
    known = runs["confusion"].map(len) > 0
    given_up = runs["confusion"].map(lambda confusion: bool(_given_up(confusion))) & ~collapsed
    blocks = []
    if collapsed.any():
        reasons = sorted(set(runs.loc[collapsed, "reason"]) - {""})
        text = "These runs learned nothing, or lost it. " + " ".join(
            f"{reason}: {CAUSES[reason]}." for reason in reasons if reason in CAUSES
        )
        found = rows(runs[collapsed], lambda part: _list(part["reason"]) or "not recorded")
        blocks.append(block("Collapsed runs", text, "Reason", found))
    if short.any():
        text = (
            "These losses do not resist wrong labels, and yet hardly memorised any: the budget is "
            "too short to tell by these settings which losses are robust."
        )
        found = rows(runs[short], lambda part: f"{part['memorised'].mean():.1f}")
        blocks.append(block("Too short to tell", text, "Memorised (%)", found))
    if given_up.any():
        text = "Runs that did not collapse, but never predict some class of the test images."
        found = rows(runs[given_up], classes)
        blocks.append(block("Classes given up", text, "Classes", found))
    holes = pd.DataFrame(sorted(missing), columns=["method", "setting", "seed"])
    if len(holes):
        holes = holes.sort_values("setting", key=lambda s: s.map(order), kind="stable")
        holes = holes.sort_values("method", key=lambda m: m.map(order), kind="stable")
        found = [
            (str(method), [Cell(str(setting)), Cell(_list(part["seed"]))])
            for (method, setting), part in holes.groupby(["method", "setting"], sort=False)
        ]
        title = "Cells of the grid that are missing"
        text = "Methods by settings by seeds of the runs that are there or begun; not finished:"
        table = Table(title, ["Method", "Setting", "Seeds"], found, words=True)
        blocks.append(Block(title, [text], table))
    if not blocks:
        told = "no run collapsed, every budget sufficed to tell, and the grid is complete"
        told += "; no class was given up" if known.all() else ""
        blocks.append(Block(text=[f"Nothing: {told}."]))
    if not known.all():
        text = "Without run folders it is not known which classes were never predicted."
        blocks.append(Block(text=[text]))
    return blocks


def _list(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


# -------------------------------------------------------------------------------- what was run

_SETTINGS = {
    "batch_size": "batch size",
    "lr": "learning rate",
    "warmup": "warm-up epochs",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "clip": "gradient clipped at",
    "augment": "augmentation",
    "precision": "precision",
    "method": "labels flipped by",
}
_VERSIONS = ("python", "torch", "torchvision", "numpy")


def _facts(
    study: Study, configs: Sequence[Config], environments: Sequence[Mapping[str, Any]], cells: int
) -> list[tuple[str, str]]:
    """What was run, as pairs of a word and what is to say of it."""
    first = study.runs.iloc[0]
    facts = [
        ("Data set", f"{first['dataset']}, {len(study.classes)} classes"),
        ("Preset", _preset(str(first["preset"]))),
        ("Losses", ", ".join(study.styles)),
        ("Noise settings", ", ".join(_settings(study))),
        ("Seeds", _list(sorted(study.runs["seed"].unique()))),
        ("Runs", f"{len(study.runs)} of the {cells} cells of the grid"),
        ("Epochs", _list(sorted(study.runs["epochs"].unique()))),
    ]
    if not configs:
        text = "not known: the run folders are not here, and this is read from summary.csv"
        return [*facts, ("Settings and machine", text)]

    def values(name: str) -> str:
        found = [getattr(config, name) for config in configs]
        return _list(("no", "yes")[v] if isinstance(v, bool) else v for v in found)

    tests = {int(np.sum(c)) for c in study.runs["confusion"] if len(c)}
    sizes = _list(f"{c.train_size:,}" if c.train_size else "all" for c in configs)
    facts += [
        ("Network", _list(f"{c.network}, width {c.width}" for c in configs)),
        ("Training images", sizes),
        ("Test images", _list(f"{count:,}" for count in sorted(tests))),
    ]
    facts.append(("Settings", "; ".join(f"{word} {values(f)}" for f, word in _SETTINGS.items())))
    weights = _list(
        f"{loss_label(config.loss)} ({', '.join(given)})"
        for config in sorted(configs, key=lambda c: (c.loss, c.variant))
        for given in [[f"{k} {v:g}" for k, v in config.loss_params.items() if v is not None]]
        if given
    )
    facts.append(("Weights of the losses", weights or "the defaults of each loss"))
    machines, versions, commits = Counter[str](), Counter[str](), Counter[str]()
    for found in environments:
        rest = {k: v for k, v in found.items() if k not in (*_VERSIONS, "git_commit")}
        machines[", ".join(f"{k} {v}" for k, v in rest.items())] += 1
        versions[", ".join(f"{k} {found[k]}" for k in _VERSIONS if k in found)] += 1
        commits[str(found.get("git_commit") or "not recorded")] += 1
    for word, counts in (("Machine", machines), ("Versions", versions), ("Commit", commits)):
        told = [text or "not recorded" for text in counts]
        if len(counts) > 1:
            told = [f"{text} ({counts[text]} runs)" for text in counts]
        facts.append((word, "; ".join(told)))
    return facts


def _preset(name: str) -> str:
    return f"{name}: {PRESETS[name].description}" if name in PRESETS else name


def _commands(material: Material, study: Study, configs: Sequence[Config]) -> list[str]:
    """What to type to make the study and this report."""
    cells = list(configs)
    if not cells and not study.runs["variant"].any():
        names = ["preset", "dataset", "loss", "noise", "map", "rate", "seed"]
        try:
            cells = [
                make_config(**dict(zip(names, map(_plain, row), strict=True)))
                for row in study.runs[names].itertuples(index=False)
            ]
        except BadInput:  # not of this apl
            cells = []
        if [cell.epochs for cell in cells] != study.runs["epochs"].tolist():
            cells = []  # the preset was another one when these ran
    first = study.runs.iloc[0]
    usual = f"{first['dataset']}-{first['preset']}"
    folder = f"results/{usual}" if material.name == usual else material.name
    made = study_commands(cells)
    if material.name != usual:
        made = [f"{command} --out {shlex.quote(folder)}" for command in made]
    return [*made, f"apl report {shlex.quote(folder)}"]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


# ------------------------------------------------------------------------------------ pictures

_PICTURES = {
    "report": ("Line and bar charts", "One loss: accuracy overall, and of each class"),
    "accuracy_vs_rate": ("Line chart", "Every method against the noise rate"),
    "accuracy_per_epoch": (
        "Line charts",
        "Accuracy while training: where it falls, memorisation sets in",
    ),
    "memorised_recovered": (
        "Line charts",
        "Of the wrong training labels: predicted as given, and predicted as the true class",
    ),
    "vanilla_vs_normalised": ("Line charts", "Each loss beside its normalised form"),
    "confusion": ("Heat maps", "What each true class is taken for, a panel a method"),
    "transition": ("Heat maps", "The noise itself: how often each class is given each label"),
}
"""By the first words of a picture's name: its kind, and its caption."""


def _pictures(
    summary: pd.DataFrame, histories: pd.DataFrame
) -> tuple[list[Picture], list[Picture]]:
    """Every picture of one data set and preset: of all methods together, and of each method."""
    together: list[Picture] = []
    of_each: list[Picture] = []
    with look():
        for name, figure in draw_study(summary, histories):
            key = next(key for key in _PICTURES if name.startswith(key))
            kind, caption = _PICTURES[key]
            title, *lines = figure.get_suptitle().splitlines()
            run = " ".join(lines)
            data = base64.b64encode(_smaller(render(figure, "png"))).decode()
            uri = f"data:image/png;base64,{data}"
            width = round(96 * figure.get_size_inches()[0])
            picture = Picture(uri, width, f"{caption}. {title}.", f"{kind}. {title}; {run}.")
            (of_each if key == "report" else together).append(picture)
    return together, of_each


def _smaller(png: bytes) -> bytes:
    """The picture in 256 colours: no eye tells it from the original, at a quarter of the size."""
    data = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        reduced = image.convert("RGB").quantize(
            256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
    reduced.save(data, "png", optimize=True)
    return data.getvalue()


# ------------------------------------------------------------------------------------ the page


def make_report(material: Material) -> Report:
    """The page of a study; the same study gives the same bytes."""
    parts = []
    for (dataset, preset), summary in material.summary.groupby(["dataset", "preset"]):
        histories = material.histories
        if histories is None:
            histories = pd.DataFrame(columns=[*HISTORY_COLUMNS, "run"])
        histories = histories[histories["run"].isin(summary["run"])]
        configs = {
            run: config
            for run, config in material.configs.items()
            if (config.dataset, config.preset) == (dataset, preset)
        }
        parts.append(_part(material, summary, histories, configs))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("apl.report").joinpath("page.jinja").read_text(encoding="utf-8")
    html = environment.from_string(source).render(name=material.name, parts=parts)
    return Report(html, [part.agreement for part in parts])


def _part(
    material: Material,
    summary: pd.DataFrame,
    histories: pd.DataFrame,
    configs: Mapping[str, Config],
) -> Part:
    (study,) = studies(summary, histories)
    finished = set(summary["run"])
    grid = _grid(study, [config for run, config in configs.items() if run not in finished])
    done = {
        (method, setting, int(seed))
        for method, setting, seed in study.runs[["method", "setting", "seed"]].itertuples(
            index=False
        )
    }
    together, of_each = _pictures(summary, histories)
    claims, findings = _claims(summary)
    agreed, line = _agreement(summary)
    verdicts = Counter(finding.verdict for finding in findings)
    told = ", ".join(f"{verdict} {verdicts[verdict]}" for verdict in VERDICTS if verdicts[verdict])
    runs, collapsed = len(study.runs), int(summary["collapsed"].sum())
    environments = [material.environments[run] for run in configs]
    return Part(
        name=study.caption,
        short=[
            f"{runs} of the {len(grid)} cells of the grid are run; {collapsed} collapsed.",
            f"Of {len(findings)} claims of the paper (Ma et al. 2020): {told}.",
            f"Agreement with the published ranking: {line}.",
        ],
        facts=_facts(study, list(configs.values()), environments, len(grid)),
        commands=_commands(material, study, list(configs.values())),
        pictures=together,
        of_each=of_each,
        sections={
            "accuracy": _accuracy(study, published_table(str(summary["dataset"].iloc[0]))),
            "claims": claims,
            "agreement": agreed,
            "classes": _per_class(study),
            "memory": _memory(study),
            "problems": _problems(study, grid - done),
        },
        agreement=f"{study.caption}: {line}",
    )
