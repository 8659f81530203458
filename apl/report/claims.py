"""Which claims of Ma et al. 2020 a study bears out, and how far its ranking agrees with published
ones.

Two runs with the same setting and seed have the same noisy labels and the same initial weights, so
losses are compared in pairs: their margin is taken seed by seed, and judged by a t-test over seeds.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from apl.config.config import Config, settings_text
from apl.config.presets import PRESETS
from apl.config.published import published_at
from apl.losses.catalog import PARAMS, loss_label
from apl.names import NOISES
from apl.report.statistics import (
    CONFIDENCE,
    FEWEST,
    LEVEL,
    Estimate,
    above,
    below,
    estimate,
    family,
    may_be_best,
)
from apl.report.study import Study, setting_name

COMBINATIONS = ("nce_mae", "nce_rce", "nfl_mae", "nfl_rce")
_RUN = ["loss", "rank", "seed"]  # what tells apart the runs of one recipe

# ---------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Where:
    """The noise settings that a claim is about."""

    name: str
    noises: tuple[str, ...]
    low: float = 0.0
    high: float = 1.0

    def covers(self, noise: str, rate: float) -> bool:
        """Whether a kind of noise and its rate (0 to 1) belong to them."""
        return noise in self.noises and self.low - 1e-9 <= rate <= self.high + 1e-9

    @property
    def standard(self) -> list[str]:
        """Those of them that the paper ran, by name."""
        return [
            setting_name(noise, "", 100 * rate)
            for noise, rates in PRESETS["paper"].rates.items()
            for rate in rates
            if self.covers(noise, rate)
        ]


CLEAN = Where("clean labels", ("none",))
NOISY = Where("all noisy settings", tuple(name for name in NOISES if name != "none"))
SYM = Where("symmetric noise", ("sym",))
HIGH_SYM = Where("symmetric noise of 0.4 or more", ("sym",), low=0.4)
SYM_06 = Where("symmetric noise of 0.6", ("sym",), low=0.6, high=0.6)
ASYM = Where("asymmetric noise", ("asym",))


@dataclass(frozen=True)
class Claim:
    """That some losses do better than others, in some settings.

    better, worse: where there are several, the best of `better` (with `every`, each of them) is
    ahead of each of `worse`; an empty `worse` stands for every other loss of the study.
    score: a column of the summary, of which more is better, but less of 'memorised'.
    least: by how many points at the least.
    """

    idea: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    where: Where
    score: str = "test_accuracy"
    least: float = 0.0
    every: bool = False

    @property
    def statement(self) -> str:
        """The claim as a sentence, without its settings."""
        verb = "memorises less than" if self.score == "memorised" else "is more accurate than"
        worse = " and ".join(map(loss_label, self.worse)) or "every other loss of the study"
        if len(self.better) == 1:
            who = loss_label(self.better[0])
        else:
            names = ", ".join(map(loss_label, self.better))
            who = f"{'Each' if self.every else 'The best'} of {names}"
        margin = f", by {self.least:g} points or more" if self.least else ""
        return f"{who} {verb} {worse}{margin}"


_PARTS = {both: tuple(both.split("_")) for both in COMBINATIONS}
_ROBUST = "Normalising a loss makes it robust"
_UNDERFIT = "Robustness is not enough: a robust loss alone underfits"
_BOTH_PARTS = "A combination of an active and a passive loss beats both of its parts"
_EARLIER = "The combinations beat the earlier robust losses"
_MEMORY = "CE memorises wrong labels, a combination does not"
_BEST = "The four combinations are the best losses under noise"

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(_ROBUST, (f"n{loss}",), (loss,), HIGH_SYM, score)
        for score in ("test_accuracy", "memorised")
        for loss in ("ce", "fl")
    ),
    *(
        Claim(_UNDERFIT, (fits,), (robust,), CLEAN)
        for fits, robust in (("ce", "nce"), ("fl", "nfl"), ("ce", "mae"), ("ce", "rce"))
    ),
    *(
        Claim(_BOTH_PARTS, (both,), (part,), NOISY)
        for both in COMBINATIONS
        for part in _PARTS[both]
    ),
    *(
        Claim(_EARLIER, (both,), (earlier,), where)
        for where in (HIGH_SYM, ASYM)
        for both in COMBINATIONS
        for earlier in ("gce", "sce")
    ),
    Claim(_MEMORY, ("nce_rce",), ("ce",), SYM, "memorised"),
    Claim(_MEMORY, ("nce_rce",), ("ce",), SYM_06, least=15.0),
    Claim(_BEST, COMBINATIONS, (), NOISY),
    Claim(_BEST, COMBINATIONS, (), NOISY, every=True),
)
"""What Ma et al. 2020 say of their losses, as far as a study of accuracies can tell."""


# ------------------------------------------------------------------------------------ statistics


def standard_errors(count: int) -> float:
    """How many standard errors a 95 % t-interval of `count` values reaches to either side."""
    from scipy import stats  # takes a second

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))


def kendalls_tau(one: pd.Series[float], other: pd.Series[float]) -> float:
    """Kendall's tau-b of two scores of the same losses: 1 for the same order, -1 for the reverse;
    nan for fewer than three losses, or where a score tells none apart."""
    if len(one) < 3:
        return math.nan
    from scipy import stats  # takes a second

    return float(stats.kendalltau(one, other).statistic)


VERDICTS = ("holds", "contradicted", "undecided", "too few seeds", "one seed only", "not run")


@dataclass(frozen=True)
class Finding:
    """What a study says to a claim.

    margins: a row a setting, a column a seed, in points; above 0 where the claim holds. Only what
    was used: every setting has every seed.
    missing: what the study lacks for it: losses, settings of the paper, or seeds that have all;
    holds, fails: the p of the margin not being above 0, and not below, each by Holm over all claims
    that are judged with it, nan for too few seeds.
    """

    claim: Claim
    margins: pd.DataFrame
    missing: tuple[str, ...]
    holds: float = math.nan
    fails: float = math.nan

    @functools.cached_property
    def by_seed(self) -> list[float]:
        """The margin of each seed, averaged over the settings."""
        return [float(margin) for margin in self.margins.mean()]

    @functools.cached_property
    def estimate(self) -> Estimate:
        """The margin over the seeds."""
        return estimate(self.by_seed)

    @property
    def verdict(self) -> str:
        """One of VERDICTS."""
        found = self.estimate
        if not found.count:
            return "not run"
        if found.count == 1:
            return "one seed only"
        if found.count < FEWEST:
            return "too few seeds"
        if self.holds <= LEVEL:
            return "holds"
        return "contradicted" if self.fails <= LEVEL else "undecided"


def judge(runs: pd.DataFrame, claims: Sequence[Claim]) -> list[Finding]:
    """What runs of one recipe say to claims, these being one family of tests."""
    columns = (runs[name].tolist() for name in ("rank", "setting", "noise", "x", "seed", "loss"))
    there = [_Run(*row) for row in zip(*columns, strict=True)]
    frame = runs.set_index(["rank", "setting", "seed", "loss"])
    scores = {
        score: _Scores.of(frame[score].unstack("loss"))
        for score in {claim.score for claim in claims}
    }
    findings = [find(there, scores[claim.score], claim) for claim in claims]
    tests = [lambda margins: (above(margins), below(margins))] * len(findings)
    ps = family([finding.by_seed for finding in findings], tests)
    return [
        replace(finding, holds=holds, fails=fails)
        for finding, (holds, fails) in zip(findings, ps, strict=True)
    ]


class _Run(NamedTuple):
    """What tells a run of a recipe from the others."""

    rank: int
    setting: str
    noise: str
    x: float
    seed: int
    loss: str


@dataclass(frozen=True)
class _Scores:
    """A score of runs as an array, settings by seeds by losses or methods, nan where there is none:
    a frame for each margin would take longer than all else that a page is made of.

    settings: (rank, name) in the order of the ranks.
    """

    values: np.ndarray[Any, np.dtype[np.float64]]
    settings: list[tuple[int, str]]
    seeds: list[int]
    names: list[str]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Scores:
        """Those of a frame with a row a (rank, setting, seed), in this order, a column a name."""
        keys = frame.index.to_list()
        settings = list(dict.fromkeys((rank, setting) for rank, setting, _ in keys))
        seeds = sorted({seed for *_, seed in keys})
        at = {key: k for k, key in enumerate(settings)}, {seed: k for k, seed in enumerate(seeds)}
        values = np.full((len(settings), len(seeds), frame.shape[1]), math.nan)
        rows = [at[0][rank, setting] for rank, setting, _ in keys]
        values[rows, [at[1][seed] for *_, seed in keys]] = frame.to_numpy(dtype=float)
        return cls(values, settings, seeds, list(frame.columns))

    def __getitem__(self, names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The scores of some losses or methods."""
        return self.values[..., [self.names.index(name) for name in names]]


def find(runs: Sequence[_Run], scores: _Scores, claim: Claim) -> Finding:
    """The margins of a claim in runs of one recipe, as `recipes` has them, with these scores."""
    chosen = [run for run in runs if claim.where.covers(run.noise, run.x / 100)]
    if not chosen:
        return Finding(claim, pd.DataFrame(), (claim.where.name,))
    losses = {run.loss for run in chosen}
    worse = list(claim.worse or sorted(losses - set(claim.better)))
    lacking = [loss for loss in (*claim.better, *worse) if loss not in losses]
    missing = [*map(loss_label, lacking), *(["any other loss"] if not worse else [])]
    if missing:
        return Finding(claim, pd.DataFrame(), tuple(missing))
    covered = sorted({(run.rank, run.setting) for run in chosen})
    at = [scores.settings.index(key) for key in covered]
    sign = -1 if claim.score == "memorised" else 1
    ours, theirs = sign * scores[claim.better][at], sign * scores[worse][at]
    ahead = ours.min(-1) if claim.every else ours.max(-1)
    margins = ahead - theirs.max(-1) - claim.least
    settings, seeds = _complete(margins)
    used = pd.DataFrame(
        margins[np.ix_(settings, seeds)],
        pd.Index([name for (_, name), kept in zip(covered, settings, strict=True) if kept]),
        [seed for seed, kept in zip(scores.seeds, seeds, strict=True) if kept],
        copy=False,  # else seeds would be summed up in another order: other last digits
    )
    names = [*claim.where.standard, *(name for _, name in covered)]
    missing = [name for name in dict.fromkeys(names) if name not in used.index]
    lacks = sorted({run.seed for run in chosen} - set(used.columns))
    missing += [f"a complete seed {seed}" for seed in lacks]
    return Finding(claim, used, tuple(missing))


Flags = np.ndarray[Any, np.dtype[np.bool_]]


def _complete(margins: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[Flags, Flags]:
    """The settings and seeds (rows and columns) that have every margin: whole seeds, since these
    are what is counted; where no seed is whole, whole settings."""
    there = ~np.isnan(margins)
    settings, seeds = there.any(1), there.any(0)
    whole = seeds & there[settings].all(0)
    return (settings, whole) if whole.any() else (settings & there[:, seeds].all(1), seeds)


def recipes(study: Study) -> list[tuple[str, pd.DataFrame]]:
    """The runs of a study that differ in nothing but loss, noise and seed, by whatever else was
    set.

    The parameters of a loss belong to the loss: of one that was run with several, the preset's are
    taken, else the first in alphabetical order.
    """
    found = []
    runs = study.runs.sort_values(["rank", "loss", "seed", "variant"])
    for rest, part in runs.groupby(runs["config"].map(_without_loss_params)):
        first = part.iloc[0]
        name = f"{first['dataset']}, preset {first['preset']}{f', {rest}' if rest else ''}"
        found.append((name, part.drop_duplicates(_RUN)))
    return found


def _without_loss_params(config: Config) -> str:
    rest = {name: value for name, value in config.by_hand.items() if name not in PARAMS}
    return settings_text(rest)


def best_losses(runs: pd.DataFrame) -> pd.DataFrame:
    """For each noisy setting the losses in order of their mean accuracy, best first, whether the
    best is one of the four combinations, and whether the best four are these."""
    noisy = runs[(runs["noise"] != "none") & runs["test_accuracy"].notna()]
    rows = []
    for (_, setting), part in noisy.groupby(["rank", "setting"]):
        means = part.groupby("loss")["test_accuracy"].mean()
        order = list(means.sort_values(ascending=False, kind="stable").index)
        if len(order) > 1:
            four = set(order[:4]) == set(COMBINATIONS)
            rows.append((setting, order, order[0] in COMBINATIONS, four))
    return pd.DataFrame(rows, columns=["setting", "losses", "best", "best_four"])


# --------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Answer:
    """Which method leads in some noise settings, by the mean of its accuracy over them.

    settings: their names; best, mean: the method and its accuracy in %; leads: by how many points
    it is ahead of each other one, the closest first, seed by seed; level: the others that may be
    the best, by `may_be_best`; count: the seeds that have every method.
    """

    settings: tuple[str, ...]
    best: str
    mean: float
    leads: dict[str, Estimate]
    level: Sequence[str]
    count: int

    @property
    def tested(self) -> bool:
        """Whether there are seeds enough to say which may be the best."""
        return bool(self.leads) and self.count >= FEWEST


def lead(runs: pd.DataFrame) -> Answer | None:
    """Which method leads in these runs of a study, of those with a score in each of the settings;
    None where there is no score."""
    scores = runs.pivot_table(
        index=["rank", "setting", "seed"], columns="method", values="test_accuracy"
    )
    if scores.empty:
        return None
    by_setting = scores.groupby(level=["rank", "setting"]).mean()
    means = by_setting.loc[:, by_setting.notna().sum() == by_setting.notna().sum().max()].mean()
    means = means.sort_values(ascending=False, kind="stable")
    best = str(means.index[0])
    leads, every = {}, _Scores.of(scores)
    for method in means.index[1:]:
        margins = np.subtract(*np.moveaxis(every[[best, method]], -1, 0))
        settings, seeds = _complete(margins)
        used = margins[np.ix_(settings, seeds)] if settings.any() else np.empty((1, 0))
        leads[str(method)] = estimate(used.mean(0).tolist())
    named = tuple(scores.index.unique("setting"))
    by_seed = scores[means.index].groupby(level="seed")
    whole = by_seed.mean()[by_seed.count().eq(len(named)).all(axis=1)]
    level = [method for method in may_be_best(whole) if method != best]
    return Answer(named, best, float(means.iloc[0]), leads, level, len(whole))


# ------------------------------------------------------------------------------------- agreement


@dataclass(frozen=True)
class Agreement:
    """How far the ranking of the losses agrees with a published one.

    pairs: a row for each two losses that a paper and the study ran in the same setting: recipe,
    paper, setting, first, second; ours and theirs, the first's mean less the second's in points;
    apart, whether theirs exceeds the sum of the two published deviations; agrees, 1 where ours has
    the sign of theirs, -1 where it has the other one, 0 where one of them is 0; by_seed, ours seed
    by seed.
    settings: a row for each setting: recipe, paper, setting, losses (how many both have), and
    Kendall's tau-b over them, nan for fewer than three.
    """

    pairs: pd.DataFrame
    settings: pd.DataFrame

    def within(self, **wanted: Collection[Any]) -> Agreement:
        """The part of it whose rows have one of these values in the columns of these names."""

        def part(frame: pd.DataFrame) -> pd.DataFrame:
            kept = np.ones(len(frame), dtype=bool)
            for name, values in wanted.items():
                kept &= frame[name].isin(values).to_numpy()
            return frame[kept]

        return Agreement(part(self.pairs), part(self.settings))

    @property
    def overall(self) -> float:
        """(Concordant - discordant) / pairs: 1 for the same order, -1 for the reverse, about 0 for
        one that has nothing to do with it; nan where there is no pair."""
        return float(self.pairs["agrees"].mean())

    @property
    def overall_apart(self) -> float:
        """The same over the pairs that the paper itself can tell apart."""
        return float(self.pairs.loc[self.pairs["apart"], "agrees"].mean())

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """What chance leaves of `overall`: its 95 % interval where losses and seeds, and with them
        all their pairs, are drawn again with replacement; nan of fewer than three losses."""
        losses = sorted({*self.pairs["first"], *self.pairs["second"]})
        seeds = sorted({seed for each in self.pairs["by_seed"] for seed in each})
        if len(losses) < 3:
            return math.nan, math.nan
        at = {loss: place for place, loss in enumerate(losses)}
        first, second = (self.pairs[name].map(at).to_numpy() for name in ("first", "second"))
        rows = [[each.get(seed, math.nan) for seed in seeds] for each in self.pairs["by_seed"]]
        by_seed, there = np.nan_to_num(np.array(rows)), ~np.isnan(np.array(rows))
        theirs = np.sign(self.pairs["theirs"].to_numpy(dtype=float))
        rng, found = np.random.default_rng(0), []
        for _ in range(DRAWS):
            of_loss, of_seed = (
                np.bincount(rng.integers(count, size=count), minlength=count)
                for count in (len(losses), len(seeds))
            )
            weight = of_loss[first] * of_loss[second] * ((there @ of_seed) > 0)
            if weight.sum():
                agrees = np.sign(by_seed @ of_seed) * theirs
                found.append(float((weight * agrees).sum() / weight.sum()))
        low, high = np.percentile(found, [2.5, 97.5])
        return float(low), float(high)

    def __str__(self) -> str:
        if self.pairs.empty:
            return "no two losses in common in any setting"
        pairs = len(self.pairs)
        low, high = self.interval
        chance = "" if math.isnan(low) else f" ({low:+.2f} to {high:+.2f})"
        text = f"{self.overall:+.2f}{chance} over {pairs} pair{'s' * (pairs != 1)} of losses"
        apart = int(self.pairs["apart"].sum())
        if apart:
            text += f", {self.overall_apart:+.2f} over the {apart} that the paper can tell apart"
        return f"{text} (1: same order, -1: reverse)"


_PAIR = ["recipe", "paper", "setting", "first", "second", "ours", "theirs", "apart", "agrees"]
_PAIR += ["by_seed"]
DRAWS = 1000  # of losses and seeds, for an interval
_SETTING = ["recipe", "paper", "setting", "losses", "tau"]


def agreement(runs: Sequence[tuple[str, pd.DataFrame]], published: pd.DataFrame) -> Agreement:
    """Compare the order of the losses with published rows, pair by pair.

    runs: as `recipes` has them; published: rows as those of `published_rows`, of one paper or of
    several, each compared by itself, and all of one protocol, as `own_protocol` has them (the
    8-layer CNN, the last epoch). Pairs are formed within one recipe, paper and setting only.
    """
    pairs, settings = [], []
    for recipe, of_recipe in runs:
        scored = of_recipe.dropna(subset=["test_accuracy"])
        for (_, setting), part in scored.groupby(["rank", "setting"]):
            first = part.iloc[0]
            rows = published[published["dataset"] == first["dataset"]]
            rows = published_at(rows, first["noise"], first["map"], first["x"])
            ours = part.groupby("loss")["test_accuracy"].mean()
            table = part.pivot_table(index="seed", columns="loss", values="test_accuracy")
            by_loss = {loss: scores.to_numpy() for loss, scores in table.items()}
            seeds = table.index.tolist()
            for paper, theirs in rows.groupby("paper", sort=False):
                one = theirs.drop_duplicates("method").set_index("method")
                one = one[one.index.isin(ours.index)]
                if len(one) < 2:
                    continue
                both = one.assign(ours=ours)
                tau = kendalls_tau(both["ours"], both["mean"])
                settings.append((recipe, paper, setting, len(both), tau))
                values: dict[Any, dict[Any, Any]] = both[["ours", "mean", "std"]].to_dict("index")
                for a, b in itertools.combinations(values, 2):
                    here = values[a]["ours"] - values[b]["ours"]
                    there = values[a]["mean"] - values[b]["mean"]
                    apart = abs(there) > values[a]["std"] + values[b]["std"]
                    sign = int(np.sign(here) * np.sign(there))
                    margins = zip(seeds, (by_loss[a] - by_loss[b]).tolist(), strict=True)
                    by_seed = {seed: margin for seed, margin in margins if not math.isnan(margin)}
                    pairs.append((recipe, paper, setting, a, b, here, there, apart, sign, by_seed))
    frame = pd.DataFrame(pairs, columns=_PAIR)
    frame["apart"] = frame["apart"].astype(bool)
    return Agreement(frame, pd.DataFrame(settings, columns=_SETTING))


def between_papers(published: pd.DataFrame) -> list[tuple[str, str, int, float]]:
    """How far the orders of any two papers agree on one data set: their names, the pairs of losses
    that both ran in the same setting, and the concordant less the discordant of these, as a share.
    No study of ours can be expected to agree with both any better."""
    found = []
    keys = ["noise", "map", "rate", "method"]
    by_paper = {
        str(paper): rows.drop_duplicates(keys).set_index(keys)["mean"]
        for paper, rows in published.groupby("paper", sort=False)
    }
    for (one, ours), (other, theirs) in itertools.combinations(by_paper.items(), 2):
        both = pd.concat([ours, theirs], axis=1, join="inner", keys=["ours", "theirs"])
        signs = [
            int(np.sign(a - b).prod())
            for _, at in both.groupby(level=keys[:-1])
            for a, b in itertools.combinations(at.to_numpy(), 2)
        ]
        if signs:
            found.append((one, other, len(signs), float(np.mean(signs))))
    return found
