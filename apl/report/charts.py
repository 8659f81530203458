"""The figures of the page's own pictures, as plain lists: the page draws them, and they answer to
the pointer."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from apl.names import NOISES
from apl.report.study import EPOCHS, SOLID, Study, Style, bare, method_styles
from apl.report.tuning import names_of, rows_of, value_text
from apl.runs.scores import VALIDATION

MOST_EPOCHS = 40  # of a curve: more can't be told apart, and make the page large

RATE_SCORES = {**EPOCHS, "memorised": "Memorised", "recovered": "Recovered"}
EPOCH_SCORES = {
    "test_accuracy": "Test accuracy",
    VALIDATION: "Held-out accuracy",
    "memorised": "Memorised",
    "recovered": "Recovered",
}
TUNED_SCORES = {"held_out": "Held-out accuracy", "test": "Test accuracy"}

Line = list[list[float | None] | None]  # [mean, std] for each x, None where there is nothing


def dark(color: str) -> str:
    """A colour for a dark page: its lightness turned round, so that dark lines become light ones
    and steps of lightness stay steps."""
    red, green, blue = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    turned = colorsys.hls_to_rgb(hue, 0.92 - 0.5 * lightness, saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in turned)


def chart_data(named: Sequence[tuple[str, Study]]) -> dict[str, Any]:
    """What there is to draw of some studies, which are told apart by the names given to them.

    methods: name, colours, dash, marker, hollow; rates: a panel a study and kind of noise, of
    scores against the noise rate; epochs: a panel a noise setting, of scores against the epoch;
    tuned: a panel a noise setting, of scores over the values that were tried; each with x, the
    ticks of x, and by score the lines by the method's place in `methods`.
    rate_scores, epoch_scores, tuned_scores: what the scores that any panel has are called; on: what
    the accuracies are on.
    """
    pairs = [pair for _, study in named for pair in study.runs[["loss", "own"]].to_numpy().tolist()]
    styles = method_styles([(loss, own) for loss, own in pairs])
    places = {method: place for place, method in enumerate(styles)}
    rates, epochs, tuned = [], [], []
    for name, study in named:
        before = f"{name}: " if name else ""
        for kind in study.kinds:
            rates.append(_against_rate(study, kind, places, before))
        epochs += _against_epoch(study, places, before)
        tuned += _over_values(study, places, before)
    return {
        "methods": [_style(method, style) for method, style in styles.items()],
        "rates": [panel for panel in rates if panel["scores"]],
        "epochs": [panel for panel in epochs if panel["scores"]],
        "tuned": tuned,
        "rate_scores": _known(RATE_SCORES, rates),
        "epoch_scores": _known(EPOCH_SCORES, epochs),
        "tuned_scores": _known(TUNED_SCORES, tuned),
        "on": " and ".join(dict.fromkeys(study.labels for _, study in named)),
    }


def _style(method: str, style: Style) -> dict[str, Any]:
    dash = [] if style.dash == SOLID else [round(2 * part, 1) for part in style.dash[1]]
    return {
        "name": method,
        "color": style.color,
        "dark": dark(style.color),
        "dash": dash,
        "marker": style.marker,
        "hollow": style.hollow,
    }


def _known(names: Mapping[str, str], panels: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found = {score for panel in panels for score in panel["scores"]}
    return {score: name for score, name in names.items() if score in found}


def _lines(frame: pd.DataFrame, x: str, score: str, places: Mapping[str, int]) -> dict[str, Any]:
    """The x that have a value of the score, and a line a method."""
    known = frame[["method", x, score]].dropna(subset=[score])
    if known.empty:
        return {}
    groups = known.groupby(["method", x])[score].agg(["mean", "std"])
    xs = sorted(known[x].unique())
    if x == "epoch" and len(xs) > MOST_EPOCHS:
        xs = [xs[at] for at in np.linspace(0, len(xs) - 1, MOST_EPOCHS).round().astype(int)]
    found = dict(zip(groups.index, groups.to_numpy().tolist(), strict=True))
    lines: dict[int, Line] = {
        places[method]: [
            [_number(value) for value in found[method, at]] if (method, at) in found else None
            for at in xs
        ]
        for method in groups.index.unique("method")
    }
    return {"x": [float(at) for at in xs], "lines": dict(sorted(lines.items()))}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 2)


def _against_rate(
    study: Study, kind: str, places: Mapping[str, int], before: str
) -> dict[str, Any]:
    """A kind of noise: the rates, or the settings one beside the other where they have names."""
    runs = study.panel(study.runs, kind)
    rated = all(NOISES[noise].rated or noise == "none" for noise in runs["noise"])
    settings = runs.drop_duplicates("rank").sort_values(["x", "rank"])
    if rated:
        ticks = {float(x): f"{x:g}" for x in settings["x"]}
    else:
        ticks = dict(enumerate(name.removeprefix("human ") for name in settings["setting"]))
        at = {rank: place for place, rank in enumerate(settings["rank"])}
        runs = runs.assign(x=runs["rank"].map(at))
    scores = {score: _lines(runs, "x", score, places) for score in RATE_SCORES}
    titles = runs["title"].unique()
    title = bare(str(titles[0] if len(titles) == 1 else kind))
    return {
        "kind": kind,
        "title": before + (title if before else title.capitalize()),
        "axis": "Noise rate (%)" if rated else "",
        "ticks": ticks,
        "scores": {score: lines for score, lines in scores.items() if lines},
    }


def _against_epoch(study: Study, places: Mapping[str, int], before: str) -> list[dict[str, Any]]:
    panels = []
    for (_, title), epochs in study.epochs.groupby(["rank", "title"]):
        scores = {score: _lines(epochs, "epoch", score, places) for score in EPOCH_SCORES}
        told = {score: lines for score, lines in scores.items() if lines}
        name = before + (bare(str(title)) if before else bare(str(title)).capitalize())
        panels.append({"title": name, "axis": "Epoch", "ticks": None, "scores": told})
    return panels


def _over_values(study: Study, places: Mapping[str, int], before: str) -> list[dict[str, Any]]:
    """Each noise setting: what was tried of each loss, the values side by side."""
    panels = []
    for setting, of in rows_of(study).items():
        texts = list(
            dict.fromkeys(value_text(t.values) for each in of.values() for t in each.tried)
        )
        scores: dict[str, Any] = {}
        for score in TUNED_SCORES:
            lines = {}
            for name, each in of.items():
                found = {value_text(one.values): getattr(one, score) for one in each.tried}
                if name in places:
                    lines[places[name]] = [_spread(found.get(text, {})) for text in texts]
            scores[score] = {"x": list(map(float, range(len(texts)))), "lines": lines}
        if not scores["held_out"]["lines"]:  # no run of what was chosen is there yet
            continue
        title = f"{before}{setting}, over {names_of(study)}"
        ticks = dict(enumerate(texts))
        panels.append({"title": title, "axis": "", "ticks": ticks, "scores": scores})
    return panels


def _spread(shares: Mapping[int, float]) -> list[float | None] | None:
    """Mean and std over the seeds, in percent; None where there is none."""
    if not shares:
        return None
    values = 100 * np.array(list(shares.values()))
    std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return [_number(float(values.mean())), _number(std)]
