"""A study as one HTML file that needs nothing else: which loss leads and how sure that is, the
pictures and tables, which claims of the paper hold here, what went wrong, and how it was run.

The contents are put together here; how they look, and how the pictures are drawn and answer to the
pointer, is written in `page.jinja`, which escapes every name that comes from a file.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
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

from apl.config.config import settings_text
from apl.config.grid import study_commands
from apl.config.presets import PRESETS
from apl.config.published import own_protocol, published_rows
from apl.data.layouts import PUBLISHED
from apl.errors import BadInput
from apl.losses.catalog import loss_label
from apl.names import DATASETS, NOISES
from apl.report.charts import chart_data
from apl.report.claims import (
    ASYM,
    CLAIMS,
    CLEAN,
    COMBINATIONS,
    SYM,
    VERDICTS,
    Answer,
    Finding,
    Where,
    agreement,
    best_losses,
    between_papers,
    judge,
    kendalls_tau,
    lead,
    recipes,
    standard_errors,
)
from apl.report.contrasts import Contrast, Judged, judge_claims, read_claims
from apl.report.pictures import HEAT_MAPS, draw_study, look, names_in, pixels
from apl.report.results import (
    accuracy_table,
    beside_published,
    choices,
    chosen_lines,
    chosen_table,
    confused_anyway,
    epochs_table,
    grid_table,
    mean_std,
    on_features,
    too_short_settings,
    what_is_bold,
)
from apl.report.statistics import FEWEST, Estimate, cant_tell
from apl.report.study import Study, bare, given, method_label, own_settings, setting_name, studies
from apl.report.tables import Cell, Table
from apl.report.tuning import (
    chosen_values_table,
    cost_table,
    curves,
    regret_table,
    regrets,
)
from apl.runs.record import find_studies, read_runs, read_unfinished
from apl.runs.run import RECORD
from apl.runs.scores import CAUSES, FROZEN, Scores

MANY_CLASSES = 20  # more of them stand below each other, for want of width
FEW_ROWS = 30  # a longer table of published figures is folded

# ------------------------------------------------------------------------------- what a page holds


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
    answers: Sequence[tuple[str, str]]  # a kind of noise, and the sentence that says what leads
    leaders: Table | None
    chart: Mapping[str, Any]  # as `chart_data` has it
    short: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    sections: Mapping[str, Sequence[Block]] = dataclasses.field(default_factory=dict)
    agreement: str = ""

    @property
    def tables(self) -> list[Table]:
        """Every table of the part, in the order of the page."""
        blocks = [block for section in self.sections.values() for block in section]
        found = [t for b in blocks for t in (b.table, *(table for _, table in b.folded))]
        return [table.joined for table in (self.leaders, *found) if table is not None]


@dataclass(frozen=True)
class Report:
    """A page, how far the study agrees with the published ranking, a line a data set, and every
    table as LaTeX."""

    html: str
    agreement: Sequence[str]
    latex: str


# ---------------------------------------------------------------------------- a study's folder


def read_study(folder: Path) -> list[Study]:
    """A study folder by data set and preset, from its run folders and its record.

    Raises BadInput where the folder is no study.
    """
    below = find_studies(folder)
    if folder not in below:
        hint = f"; give one of {', '.join(map(str, below))}" if below else ""
        raise BadInput(f"{folder} is no study: it has no finished run and no {RECORD}{hint}")
    return studies(read_runs(folder), read_unfinished(folder))


# ------------------------------------------------------------------------------------------ answers


def _kinds(study: Study) -> Iterable[tuple[str, pd.DataFrame]]:
    """The kinds of noise with their runs, none first; 'Sym' is written out."""
    for kind, runs in study.runs.sort_values("rank").groupby("kind", sort=False):
        titles = runs["title"].unique()
        xs = runs.loc[runs["x"] > 0, "x"]
        name = bare(str(titles[0])) if len(titles) == 1 else bare(str(kind))
        if len(titles) > 1 and NOISES[runs.iloc[0]["noise"]].rated:
            name += f", {xs.min():g} to {xs.max():g} %"
        yield name.capitalize(), runs


def _answers(study: Study) -> list[tuple[str, str]]:
    """For each kind of noise which method leads, by how much, and how sure that is; first what
    held-out labels choose, and on labels of unknown truth that alone: who leads on test labels is
    known in hindsight only."""
    chosen = [("Chosen without the truth", line) for line in chosen_lines(study)]
    if study.judged and not study.on_given:
        chosen = []  # what choosing cost in all settings is told before, as regret
    if chosen and study.on_given:
        return chosen
    found = [(name, lead(runs)) for name, runs in _kinds(study)]
    return chosen + [(name, _sentence(answer)) for name, answer in found if answer is not None]


def _sentence(answer: Answer) -> str:
    mean = f"{answer.mean:.1f} %" + " on average" * (len(answer.settings) > 1)
    if not answer.leads:
        return f"{answer.best} reaches {mean}; no other loss was run."
    text = f"{answer.best} leads with {mean}"
    others = list(answer.leads)
    base = "CE" if "CE" in others else others[-1]
    shown = dict.fromkeys([base, others[0]])
    text += f", {' and '.join(_before(other, answer.leads[other]) for other in shown)}"
    if not answer.count:
        return f"{text}; no seed has all losses, so nobody knows which is the best."
    if answer.count < 2:
        return f"{text}; one seed: nobody knows how much of it is chance."
    if not answer.tested:
        return f"{text}; {cant_tell(answer.count)} which is the best."
    unsure = answer.level
    if not unsure:
        return f"{text}: ahead of every other, beyond chance."
    named = unsure[0] if len(unsure) == 1 else f"{', '.join(unsure[:-1])} and {unsure[-1]}"
    if len(unsure) > 4:
        named = f"{len(unsure)} of the {len(others)} others"
    return f"{text}; it can't be told from {named}."


def _before(other: str, lead: Estimate) -> str:
    """By how much the best is ahead of another, in words where no seed has both."""
    if not lead.count:
        return f"without a seed in common with {other}"
    interval = f" ({lead.low:.1f} to {lead.high:.1f})" if lead.count > 1 else ""
    return f"{lead.mean:.1f}{interval} points before {other}"


def _leaders(study: Study) -> Table | None:
    """For each noise setting the method that leads, and which others may be the best."""
    rows = []
    ce = "CE" in study.styles
    for _, runs in study.runs.groupby("rank"):
        answer = lead(runs)
        if answer is None:
            continue
        ahead = answer.leads.get("CE")
        setting = str(runs["setting"].iloc[0])
        cells = [Cell(setting), Cell(answer.best), Cell(f"{answer.mean:.1f}", answer.mean)]
        if ce:
            paired = ahead if ahead and ahead.count else None
            cells.append(Cell(f"{paired.mean:+.1f}", paired.mean) if paired else Cell(""))
        names = answer.level
        told = f"{names[0]}, {len(names) - 1} more" if len(names) > 2 else ", ".join(names)
        if not answer.tested:
            told = cant_tell(answer.count) if answer.leads else "no other was run"
        cells.append(Cell(told or "none", len(names) if answer.tested else None))
        rows.append(cells)
    head = ["Noise", "Best", "%", *(["vs CE"] if ce else []), "or it is"]
    notes = [
        f"Last epoch, on {study.labels}. In brackets: 95 % intervals of paired t-tests over the "
        "seeds. Or it is: the others that may be the best, a set that with the leader holds the "
        "best one in 19 of 20 studies (multiple comparisons with the best)."
    ]
    caption = "Which loss leads under which noise"
    return Table(caption, head, rows, notes, words=True) if rows else None


# ----------------------------------------------------------------------------------------- sections


def _method_runs(study: Study) -> Iterable[tuple[str, pd.DataFrame]]:
    for method in study.styles:
        yield method, study.runs[study.runs["method"] == method]


def _accuracy(study: Study) -> list[Block]:
    """Mean ± std of every method and setting."""
    seeds = study.runs.groupby(["setting", "method"])["seed"].nunique().max()
    spread = f"Mean ± std over {seeds} seeds, unless n says otherwise" if seeds > 1 else "One seed"
    notes = [f"{spread}. {what_is_bold(study)}."]
    if study.runs["collapsed"].any():
        notes.append("† with a collapsed run.")
    return [Block(table=dataclasses.replace(accuracy_table(study), notes=notes))]


def _published(study: Study) -> list[Block]:
    """What papers published of the same methods and noise, each under its own protocol; long
    tables to unfold."""
    line, tables = beside_published(study, published_rows())
    blocks = [Block(text=[line])] if tables else []
    for beside in tables:
        table = beside.table
        few = len(table.rows) <= FEW_ROWS
        folded = f"{table.caption} ({len(table.rows)} rows)"
        blocks.append(Block(table=table) if few else Block(folded=[(folded, table)]))
    return blocks


def _tuning(study: Study) -> list[Block]:
    """What was chosen for each loss and noise setting, what that cost, and the curves as tables."""
    tables = (regret_table(study), chosen_values_table(study), cost_table(study))
    blocks = [Block(table=table) for table in tables if table is not None]
    folded = curves(study)
    return [*blocks, Block(folded=folded)] if folded else blocks


def _regret_in_short(study: Study) -> list[tuple[str, str]]:
    """Which rule regrets least, beside choosing without the truth and CE always."""
    found = regrets(study) if study.judged else []
    if not found:
        return []
    least = min(found, key=lambda rule: rule.mean)
    shown = {rule.name: rule for rule in (least, *found) if rule is least or rule.shown}
    told = "; ".join(
        f"{rule.name} {rule.mean:.1f} points on average, {rule.worst:.1f} at worst ({rule.where})"
        for rule in shown.values()
    )
    return [("Behind the best loss of each setting", f"{told[:1].upper()}{told[1:]}.")]


def _choices(study: Study) -> list[Block]:
    """Last, best and chosen epoch, and the loss that held-out labels choose, where there are."""
    return [Block(table=t) for t in (epochs_table(study), chosen_table(study)) if t is not None]


def _memory(study: Study) -> list[Block]:
    """What was memorised, what recovered, and the accuracy on the training labels as given."""
    tables = []
    unknown = study.runs["memorised"].isna() & ~study.runs["transition"].map(given)
    for score, caption in (
        ("memorised", "Memorised: wrong training labels predicted as given, in %"),
        ("recovered", "Recovered: wrong training labels predicted as the true class, in %"),
        ("train_accuracy", "Accuracy on the training labels as given, in %"),
    ):

        def cell(runs: pd.DataFrame, score: str = score) -> Cell:
            mean = float(runs[score].mean())
            if math.isnan(mean):  # unknown, or there is no wrong label
                return Cell("" if runs["transition"].map(given).all() else "-")
            return Cell(mean_std(mean, runs[score].std()), mean, heat=mean / 100)

        table = grid_table(study, caption, cell)
        known = any(cell.text not in ("", "-") for row in table.rows for cell in row[1:])
        if len(table.head) > 1 and known:  # not one of dashes alone
            tables.append(_with_baselines(study, table) if score == "memorised" else table)
    blocks = [Block(table=table) for table in tables]
    if unknown.any():
        dash = any(cell.text == "-" for table in tables for row in table.rows for cell in row)
        text = (
            f"{'A dash: n' if dash else 'N'}obody knows which of these training labels are wrong."
        )
        blocks.insert(0, Block(text=[text]))
    return blocks


def _with_baselines(study: Study, table: Table) -> Table:
    """The table of what was memorised, and below it what needs no memory."""
    confused = confused_anyway(study)
    settings = table.head[1:]
    rows, notes = list(table.rows), list(table.notes)
    guessing = 100 / len(study.classes)
    baselines = [("guessing", dict.fromkeys(settings, guessing))]
    note = "Guessing: what a network that knows nothing has."
    if confused:
        baselines.append(("trained on right labels", confused))
        note += (
            " Trained on right labels: how often the networks of the clean setting take a test "
            "image for the class that the noise takes it for; so much is no memory."
        )
    for name, shares in baselines:
        told = [shares.get(setting, math.nan) for setting in settings]
        cells = [Cell("" if math.isnan(x) else f"{x:.1f}", x, heat=x / 100) for x in told]
        rows.append([Cell(name), *cells])
    return dataclasses.replace(table, rows=rows, notes=[*notes, note])


def _per_class(study: Study) -> list[Block]:
    """For each setting the accuracy of each class under each method, to unfold."""
    folded = []
    for setting in study.settings:
        rows: list[list[Cell]] = []
        gave_up = []
        for method, of_method in _method_runs(study):
            runs = of_method[of_method["setting"] == setting]
            lists = list(runs["per_class_accuracy"])
            if not lists:
                continue
            given_up = Counter(k for confusion in runs["confusion"] for k in _given_up(confusion))
            if given_up:
                gave_up.append(method)
            cells = [Cell(method)]
            for k, share in enumerate(np.array(lists, dtype=float).mean(axis=0).tolist()):
                if math.isnan(share):  # a class without test images
                    cells.append(Cell("-"))
                    continue
                flag = f"∅ {given_up[k]}/{len(runs)}" if given_up[k] else ""
                cells.append(Cell(f"{100 * share:.1f}", share, flag, heat=share))
            rows.append(cells)
        if not rows:
            continue
        head = ["Method", *study.classes]
        if len(study.classes) > MANY_CLASSES:
            methods, *columns = zip(*rows, strict=True)
            head = ["Class", *(cell.text for cell in methods)]
            rows = [
                [Cell(name), *cells] for name, cells in zip(study.classes, columns, strict=True)
            ]
        notes = (
            ["∅ 2/3: 2 of 3 runs never predict this class, or as good as never."] if gave_up else []
        )
        caption = f"Accuracy of each class in %, {setting}"
        title = setting
        if gave_up:
            title += f"; with a class never predicted: {', '.join(gave_up)}"
        folded.append((title, Table(caption, head, rows, notes)))
    return [Block(folded=folded)] if folded else []


def _given_up(confusion: Sequence[Sequence[int]] | None) -> list[int]:
    """The classes that a run never predicts, or as good as never."""
    return [] if confusion is None else Scores.of(np.array(confusion)).never_predicted


# ------------------------------------------------------------------------------------------- claims


def _claimed(study: Study, claims: Sequence[Contrast] | None) -> list[Judged]:
    """What the study says to claims of a file, or to ours where it is a tuned one of CIFAR-10; none
    where it can judge none."""
    if study.tuned and not study.judged:  # a configuration that was tried speaks for no loss
        return []
    if claims is None:
        ours = study.judged and study.runs["dataset"].iloc[0] == "cifar10"
        claims = read_claims() if ours else []
    runs = study.runs.sort_values(["rank", "loss", "seed", "variant"])
    judged = judge_claims(runs.drop_duplicates(["loss", "rank", "seed"]), claims)
    return judged if any(each.margins for each in judged) else []


def _claimed_in_short(judged: Sequence[Judged]) -> list[tuple[str, str]]:
    if not judged:
        return []
    counts = Counter(each.verdict for each in sorted(judged, key=lambda each: not each.margins))
    told = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
    return [("Claimed before the runs", f"Of {len(judged)} claims: {told}.")]


def _claimed_blocks(judged: Sequence[Judged]) -> list[Block]:
    """The claims of a file, each with what was tested and what came of it."""
    if not judged:
        return []
    rows = []
    for each in judged:
        lacks = f"lacks {', '.join(each.missing)}" if each.missing else ""
        rows.append(
            [
                Cell(each.claim.says),
                Cell(each.claim.statement),
                Cell(each.verdict, verdict=each.verdict),
                *_margin_cells(each.estimate, each.holds),
                Cell(", ".join(each.claim.settings), below=lacks),
            ]
        )
    head = ["Claim", "Tested", "Verdict", "Margin", "95 % interval", "p (Holm)", "Seeds", "Where"]
    notes = [
        "Margin: the first loss less the second, in points, averaged over the settings for each "
        "seed. Ahead by a margin: one-sided; level within one: two one-sided tests, both of which "
        "must reject, so that a difference that is not seen is not taken for none. p: the larger "
        "of Student's t and of flipping signs over the seeds, by Holm over all claims.",
        f"Fewer than {FEWEST} seeds: an interval and no verdict.",
    ]
    caption = "What was claimed before the runs"
    return [Block(table=Table(caption, head, rows, notes, words=True))]


Recipes = Sequence[tuple[str, pd.DataFrame]]


def _claims(found_recipes: Recipes) -> tuple[list[Block], list[Finding]]:
    """The findings idea by idea, for every recipe of the study."""
    blocks, everything = [], []
    for name, runs in found_recipes:
        findings = judge(runs, CLAIMS)
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
    if max(tested) < FEWEST:
        text.append(
            f"With fewer than {FEWEST} seeds there is no verdict, only a margin and its interval."
        )
        return text
    text.append(
        f"{len(tested)} claims are tested together, by Holm's method: the chance that any is "
        "called wrongly is 5 %. Each is called by the larger p of two one-sided tests, Student's t "
        "and flipping signs."
    )
    return text


def _margin_cells(found: Estimate, p: float) -> list[Cell]:
    """A claim's margin over the seeds, its interval, the p of it not holding, and the seeds."""
    told = f"{found.low:+.2f} to {found.high:+.2f}" if found.count > 1 else ""
    return [
        _number(found.mean, "+.2f"),
        Cell(told, found.low),
        Cell("" if math.isnan(p) else _p(p), p),
        Cell(str(found.count), found.count),
    ]


def _idea(title: str, findings: Sequence[Finding]) -> list[Block]:
    """The findings on one idea, those of claims that were run."""
    if not findings:
        return []
    rows = []
    for finding in findings:
        found, verdict = finding.estimate, finding.verdict
        told = cant_tell(found.count) if verdict == "too few seeds" else verdict
        lacks = f"lacks {', '.join(finding.missing)}" if finding.missing else ""
        cells = [
            Cell(finding.claim.statement),
            Cell(told, -VERDICTS.index(verdict), verdict=told),
            *_margin_cells(found, finding.holds),
            Cell(finding.claim.where.name, below=lacks),
        ]
        rows.append(cells)
    head = ["Claim", "Verdict", "Margin", "95 % interval", "p (Holm)", "Seeds", "Where"]
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
    told = [(f.claim.statement, f.claim.where.name, ", ".join(f.missing)) for f in findings]
    rows = [[Cell(text) for text in line] for line in told]
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
        where = f" ({finding.claim.where.name})" if several else ""
        cells = [Cell(finding.claim.statement + where)]
        for setting in settings:
            if setting not in finding.margins.index:
                cells.append(Cell(""))
                continue
            margins = finding.margins.loc[setting]
            text = f"{margins.mean():+.2f}"
            if len(margins) > 1:
                text += f" ± {margins.std():.2f}"
            cells.append(Cell(text, float(margins.mean())))
        rows.append(cells)
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
        rows.append([Cell(text) for text in (str(row["setting"]), leading, *answers)])
    text = (
        f"By mean accuracy, a combination is the best loss in {order['best'].sum()} of "
        f"{len(order)} noisy settings, and the four combinations are the best four in "
        f"{order['best_four'].sum()}."
    )
    head = ["Setting", "Best four, best first", "Best is a combination", "All four are"]
    caption = "The best four losses in each noisy setting"
    return [Block("Which losses lead", [text], Table(caption, head, rows, words=True))]


# ---------------------------------------------------------------------------------------- agreement


def _agreement(dataset: str, found_recipes: Recipes) -> tuple[list[Block], str]:
    """How far our ranking agrees with that of each paper with the protocol of Ma et al., and the
    line that says it of the first."""
    published = own_protocol(published_rows())
    published = published[published["dataset"] == dataset]
    if published.empty:
        line = f"no row known here is of {dataset} under the protocol of Ma et al. 2020"
        return [Block(text=[f"N{line[1:]}."])], line
    every = agreement(found_recipes, published)
    by_paper = {
        str(paper): every.within(paper=[paper])
        for paper, _ in published.groupby("paper", sort=False)
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
        overall["All papers, each within itself"] = every
        for where in (CLEAN, SYM, ASYM):
            of_kind = [_within(runs, where) for _, runs in found_recipes]
            total = sum(len(runs) for _, runs in found_recipes)
            if 0 < sum(map(len, of_kind)) < total:
                names = {name for runs in of_kind for name in runs["setting"]}
                overall[f"All papers, {where.name}"] = every.within(setting=names)
    rows = []
    for paper, found in overall.items():
        values = (found.overall, len(found.pairs), found.overall_apart, found.pairs["apart"].sum())
        cells = [_number(value, "d" if k % 2 else "+.2f") for k, value in enumerate(values)]
        low, high = found.interval
        if not math.isnan(low):
            cells[0] = dataclasses.replace(cells[0], below=f"{low:+.2f} to {high:+.2f}")
        rows.append([Cell(paper), *cells])
    head = ["Paper", "Agreement", "Pairs", "Agreement where apart", "Pairs apart"]
    caption = "Pairs in the same order less pairs in the reverse one, as a share of all pairs"
    notes = [
        "Below: the 95 % interval where losses and seeds are drawn again (bootstrap). Pairs share "
        "losses, so they are fewer than they look."
    ]
    notes += [
        f"{paper} and {another} agree with one another by {agreed:+.2f} over {count} pairs on "
        f"{dataset}: so far do papers agree."
        for paper, another, count, agreed in between_papers(published)
    ]
    blocks = [Block(text=text, table=Table(caption, head, rows, notes))]
    settings = pd.concat([found.settings for found in by_paper.values()], ignore_index=True)
    several = settings["recipe"].nunique() > 1
    rows = []
    for (recipe, setting), part in settings.groupby(["recipe", "setting"], sort=False):
        cells = [Cell(f"{setting} ({recipe})" if several else str(setting))]
        for paper in by_paper:
            one = part[part["paper"] == paper]
            if one.empty:
                cells.append(Cell(""))
                continue
            cell = _number(float(one["tau"].iloc[0]), "+.2f")
            cells.append(dataclasses.replace(cell, below=f"{one['losses'].iloc[0]} losses"))
        rows.append(cells)
    caption = "Kendall's tau-b with the published ranking, over the losses that both ran"
    if rows:
        notes = ["A dash: fewer than three losses, or no order among them."]
        blocks.append(Block(table=Table(caption, ["Setting", *by_paper], rows, notes)))
    first = next(iter(by_paper))
    return blocks, f"{first}: {by_paper[first]}"


def _within(runs: pd.DataFrame, where: Where) -> pd.DataFrame:
    covered = [where.covers(*key) for key in zip(runs["noise"], runs["x"] / 100, strict=True)]
    return runs[covered]


def _number(value: float, form: str) -> Cell:
    return Cell("-") if math.isnan(value) else Cell(format(value, form), float(value))


# ----------------------------------------------------------------------------- what went wrong


def _grid(study: Study) -> set[tuple[str, str, int]]:
    """The cells (method, setting, seed) of the grid that the runs span, begun ones included."""
    runs = study.runs
    methods, settings = set(runs["method"]), set(runs["setting"])
    seeds = {int(seed) for seed in runs["seed"]}
    on = "true" if "true" in set(runs["on"]) else "given"
    for config in study.unfinished:
        if config.noise == "matrix":  # named by the rate that its labels come to, not known yet
            continue
        clean = config.rate == 0 and config.noise != "human"
        noise, table = ("none", "") if clean else (config.noise, config.map)
        methods.add(method_label(config.loss, own_settings(config, study.shared)))
        settings.add(setting_name(noise, table, 100 * config.rate, on))
        seeds.add(config.seed)
    return set(itertools.product(methods, settings, seeds))


def _problems(study: Study, missing: Iterable[tuple[str, str, int]]) -> list[Block]:
    """Collapsed runs, budgets too short to tell, classes never predicted, and missing runs."""
    order = {name: rank for rank, name in enumerate([*study.styles, *study.settings])}
    runs = study.runs.sort_values(["rank", "seed"])
    runs = runs.sort_values("method", key=lambda m: m.map(order), kind="stable")

    def block(
        title: str, text: str, of: pd.DataFrame, tell: Mapping[str, Callable[[pd.DataFrame], str]]
    ) -> Block:
        rows = [
            [Cell(str(method)), Cell(str(setting)), Cell(_list(part["seed"]))]
            + [Cell(told(part)) for told in tell.values()]
            for (method, setting), part in of.groupby(["method", "setting"], sort=False)
        ]
        head = ["Method", "Setting", "Seeds", *tell]
        return Block(title, [text], Table(title, head, rows, words=True))

    def classes(part: pd.DataFrame) -> str:
        names = [
            names[k]
            for names, confusion in zip(part["class_names"], part["confusion"], strict=True)
            for k in _given_up(confusion)
        ]
        return ", ".join(dict.fromkeys(names))

    collapsed = runs["collapsed"].astype(bool)
    short = runs["too_short"].astype(bool) & runs["setting"].isin(too_short_settings(runs))
    given_up = runs["confusion"].map(lambda confusion: bool(_given_up(confusion))) & ~collapsed
    blocks = []
    if collapsed.any():
        reasons = sorted(set(runs.loc[collapsed, "reason"]) - {""})
        text = "These runs learned nothing, or lost it. " + " ".join(
            f"{reason}: {CAUSES[reason]}." for reason in reasons if reason in CAUSES
        )
        why = {"Reason": lambda part: _list(part["reason"]) or "not recorded"}
        blocks.append(block("Collapsed runs", text, runs[collapsed], why))
    if short.any():
        text = "These losses do not resist wrong labels, and yet hardly memorised any: "
        frozen = on_features(runs)
        text += (
            f"{FROZEN}."
            if frozen
            else ("the budget is too short to tell by these settings which losses are robust.")
        )
        how = {"Memorised (%)": lambda part: f"{part['memorised'].mean():.1f}"}
        title = "Hardly memorised" if frozen else "Too short to tell"
        blocks.append(block(title, text, runs[short], how))
    if given_up.any():
        text = (
            "Runs that did not collapse, but predict some class for fewer than 2 in 100 of its "
            "test samples: as good as never."
        )
        blocks.append(block("Classes never predicted", text, runs[given_up], {"Classes": classes}))
    holes = pd.DataFrame(sorted(missing), columns=["method", "setting", "seed"])
    if len(holes):
        holes = holes.sort_values("setting", key=lambda s: s.map(order), kind="stable")
        holes = holes.sort_values("method", key=lambda m: m.map(order), kind="stable")
        title = "Runs of the grid that are missing"
        text = "Methods by settings by seeds of the runs that are there or begun; not finished:"
        blocks.append(block(title, text, holes, {}))
    if not blocks:
        told = "no run collapsed, every budget sufficed to tell, and the grid is complete"
        blocks.append(Block(text=[f"Nothing: {told}; every class is predicted."]))
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


def _facts(study: Study, cells: int) -> list[tuple[str, str]]:
    """What was run, as pairs of a word and what is to say of it."""
    first = study.runs.iloc[0]
    facts = [
        ("Data set", f"{first['dataset']}, {len(study.classes)} classes"),
        ("Preset", _preset(str(first["preset"]))),
        ("Losses", ", ".join(study.styles)),
        ("Noise settings", ", ".join(study.settings)),
        ("Seeds", _list(sorted(study.runs["seed"].unique()))),
        ("Runs", f"{len(study.runs)} of the {cells} of the grid"),
        ("Epochs", _list(sorted(study.runs["epochs"].unique()))),
    ]
    configs = [*study.runs["config"], *study.unfinished]

    def values(name: str) -> str:
        found = [getattr(config, name) for config in configs]
        return _list(("no", "yes")[v] if isinstance(v, bool) else v for v in found)

    tests = {int(np.sum(c)) for c in study.runs["confusion"] if c is not None}
    sizes = _list(f"{c.train_size:,}" if c.train_size else "all" for c in configs)
    facts += [
        ("Network", _list(f"{c.network}, width {c.width}" for c in configs)),
        ("Training images", sizes),
        ("Test images", _list(f"{count:,}" for count in sorted(tests))),
    ]
    facts.append(("Settings", "; ".join(f"{word} {values(f)}" for f, word in _SETTINGS.items())))
    weights = _list(
        f"{loss_label(config.loss)} ({settings_text(config.params).replace(',', ', ')})"
        for config in sorted(configs, key=lambda c: (c.loss, c.variant))
        if config.params
    )
    facts.append(("Weights of the losses", weights or "none"))
    machines, versions, commits = Counter[str](), Counter[str](), Counter[str]()
    for found in study.runs["environment"]:
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


def _commands(name: str, study: Study) -> list[str]:
    """What to type to make the study of that name and this report."""
    first = study.runs.iloc[0]
    usual = f"{first['dataset']}-{first['preset']}"
    folder = f"results/{usual}" if name == usual else name
    made = study_commands([*study.runs["config"], *study.unfinished])
    if name != usual:
        made = [f"{command} --out {shlex.quote(folder)}" for command in made]
    return [*made, f"apl report {shlex.quote(folder)}"]


# ------------------------------------------------------------------------------------ pictures

LARGEST = 2.2e6  # pixels of a picture, which all in all must leave the page at 1.5 MB

_CAPTIONS = {
    "confusion": "What each true class is taken for, a panel a method",
    "transition": "The noise itself: how often each class is given each label",
}
"""By the first word of a heat map's name."""


def _pictures(study: Study) -> list[Picture]:
    """The heat maps of one data set and preset; whatever else there is to see the page draws."""
    found = []
    with look(names_in([study])):
        for name, figure in draw_study(study, HEAT_MAPS):
            title, *lines = figure.get_suptitle().splitlines()
            run = " ".join(lines)
            width, height = figure.get_size_inches()
            dpi = min(150, math.sqrt(LARGEST / (width * height)))
            data = base64.b64encode(_smaller(pixels(figure, dpi))).decode()
            told = _CAPTIONS[name.partition("_")[0]]
            if study.on_given:
                told = told.replace("true class", "given class")
            caption = f"{told}. {title}."
            alt = f"Heat maps. {title}; {run}."
            found.append(Picture(f"data:image/png;base64,{data}", round(96 * width), caption, alt))
    return found


def _smaller(image: Image.Image) -> bytes:
    """The picture as a png in 256 colours: no eye tells it from the original, at a quarter of the
    size."""
    data = io.BytesIO()
    reduced = image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(data, "png", optimize=True)
    return data.getvalue()


# ------------------------------------------------------------------------------------ the page


def make_report(
    name: str, parts: Sequence[Study], claims: Sequence[Contrast] | None = None
) -> Report:
    """The page of the study of that name, as `read_study` has it; the same study gives the same
    bytes.

    claims: those of a file, as `read_claims` has them, None for ours where the study fits them.
    """
    return _report(name, [_part(name, study, claims) for study in parts])


def make_comparison(
    named: Sequence[tuple[str, Sequence[Study]]], claims: Sequence[Contrast] | None = None
) -> Report:
    """The page of several studies by name: side by side first, then each as in its own page, with
    claims as there.

    Raises BadInput where two have the same name, or there is only one.
    """
    names = [name for name, _ in named]
    if len(set(names)) < max(2, len(names)):
        raise BadInput(f"the studies are {', '.join(names)}; accepted: two or more, each once")
    told = [
        dataclasses.replace(part, name=f"{name}: {part.name}")
        for name, parts in named
        for study in parts
        for part in [_part(name, study, claims)]
    ]
    several = [
        (name if len(parts) == 1 else f"{name} ({study.runs['dataset'].iloc[0]})", study)
        for name, parts in named
        for study in parts
    ]
    title = " beside ".join(names)
    return _report(title, [_beside(several), *told])


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    source = resources.files("apl.report").joinpath("page.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _report(name: str, told: Sequence[Part]) -> Report:
    html = _template().render(name=name, parts=told)
    latex = "\n".join(table.latex for part in told for table in part.tables)
    return Report(html, [part.agreement for part in told if part.agreement], latex)


def _beside(several: Sequence[tuple[str, Study]]) -> Part:
    """Several studies side by side: what leads in each, and the order of the methods that any two
    have in common, setting by setting."""
    answers = [
        (f"{name}, {kind[:1].lower()}{kind[1:]}", sentence)
        for name, study in several
        for kind, sentence in _answers(study)
    ]
    blocks = []
    for (name, one), (other_name, other) in itertools.combinations(several, 2):
        both = _common(one, other)
        if both.empty:
            text = [f"{name} and {other_name} have no method and noise setting in common."]
            blocks.append(Block(text=text))
            continue
        rows = []
        for setting, part in both.groupby("setting", sort=False):
            ours, theirs = part["one"].rank(ascending=False), part["other"].rank(ascending=False)
            tau = kendalls_tau(part["one"], part["other"])
            names = part["method"].tolist()
            best = [Cell(names[int(ranks.argmin())]) for ranks in (ours, theirs)]
            count = Cell(str(len(part)), len(part))
            rows.append([Cell(str(setting)), count, _number(tau, "+.2f"), *best])
        head = ["Noise", "Methods", "Kendall's tau-b", f"Best: {name}", f"Best: {other_name}"]
        caption = f"The order of the methods that {name} and {other_name} have in common"
        notes = ["1: the same order, -1: the reverse; a dash: fewer than three, or no order."]
        blocks.append(Block(table=Table(caption, head, rows, notes, words=True)))
        blocks.append(Block(folded=[_differences(name, other_name, both)]))
    return Part("Side by side", answers, None, chart_data(several), sections={"beside": blocks})


def _common(one: Study, other: Study) -> pd.DataFrame:
    """The accuracies of what two studies have in common: setting, method, one and other, in the
    order of the tables of the one."""
    keys = ["setting", "method"]
    means = one.runs.groupby(["rank", *keys])["test_accuracy"].mean().rename("one").reset_index()
    theirs = other.runs.groupby(keys)["test_accuracy"].mean().rename("other").reset_index()
    both = means.merge(theirs, on=keys).dropna()
    order = {method: place for place, method in enumerate(one.styles)}
    return both.sort_values("method", key=lambda m: m.map(order)).sort_values("rank", kind="stable")


def _differences(name: str, other_name: str, both: pd.DataFrame) -> tuple[str, Table]:
    """The accuracies that two studies have in common, as a title and a table."""
    settings = list(both["setting"].unique())
    found: dict[str, dict[str, Cell]] = {}
    for row in both.to_dict("records"):
        ours, theirs = row["one"], row["other"]
        cell = Cell(f"{ours:.2f}", ours, f"{theirs:.2f}, {ours - theirs:+.2f}")
        found.setdefault(row["method"], {})[row["setting"]] = cell
    rows = [
        [Cell(method), *(cells.get(setting, Cell("")) for setting in settings)]
        for method, cells in found.items()
    ]
    caption = f"Accuracy of {name}, below it of {other_name} and the difference"
    notes = ["Last epoch, in %, mean over the seeds of each."]
    return caption, Table(caption, ["Method", *settings], rows, notes)


def _part(name: str, study: Study, claimed: Sequence[Contrast] | None) -> Part:
    grid = _grid(study)
    done = {
        (method, setting, int(seed))
        for method, setting, seed in study.runs[["method", "setting", "seed"]].itertuples(
            index=False
        )
    }
    dataset = str(study.runs["dataset"].iloc[0])
    found_recipes = recipes(study)
    # What papers claim, they claim of data sets that others have too.
    known = dataset in (*DATASETS, *PUBLISHED)
    claims, findings = _claims(found_recipes) if known else ([], [])
    agreed, line = _agreement(dataset, found_recipes) if known else ([], "")
    verdicts = Counter(finding.verdict for finding in findings)
    told = ", ".join(f"{verdict} {verdicts[verdict]}" for verdict in VERDICTS if verdicts[verdict])
    runs, collapsed = len(study.runs), int(study.runs["collapsed"].sum())
    judged = _claimed(study, claimed)
    return Part(
        name=study.caption,
        answers=[*_claimed_in_short(judged), *_regret_in_short(study), *_answers(study)],
        leaders=None if study.on_given and choices(study) else _leaders(study),
        chart=chart_data([("", study)]),
        short=[
            f"{runs} of the {len(grid)} runs of the grid are done; {collapsed} collapsed.",
            *([f"Of {len(findings)} claims of the paper (Ma et al. 2020): {told}."] * known),
            *([f"Agreement with the published ranking: {line}."] * known),
        ],
        facts=_facts(study, len(grid)),
        commands=_commands(name, study),
        pictures=_pictures(study),
        sections={
            "claimed": _claimed_blocks(judged),
            "tuning": _tuning(study),
            "accuracy": _accuracy(study),
            "published": _published(study),
            "choices": _choices(study),
            "claims": claims,
            "agreement": agreed,
            "classes": _per_class(study),
            "memory": _memory(study),
            "problems": _problems(study, grid - done),
        },
        agreement=f"{study.caption}: {line}" if known else "",
    )
