"""Wrong labels from features: what the heads of `apl.training.crossfit` say, as findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from apl.detect.evidence import INVISIBLE, Evidence, Findings, doubts_of
from apl.noise.labels import IntArray, Vector
from apl.training.crossfit import CrossFit


def findings_of(fit: CrossFit, labels: IntArray, class_names: Sequence[str] = ()) -> Findings:
    """What cross-fitted heads say of given labels [N], as `apl.detect.evidence.find_issues` has
    it."""
    flagged = np.zeros(len(labels), dtype=bool)
    if fit.rate.estimate > 0:
        flagged[flagged_by(fit.wrong)] = True
    others = fit.posterior.copy()
    others[np.arange(len(labels)), labels] = -1
    predicted = np.where(flagged, others.argmax(1), fit.clean.argmax(1))
    doubts = doubts_of(labels, Evidence.of(fit.clean), fit.clean, fit.rate, class_names)
    return Findings(
        is_label_issue=flagged,
        label_score=1 - fit.wrong,
        given_label=labels,
        predicted_label=predicted,
        noise_rate=fit.rate,
        transition=fit.transition,
        doubts=doubts,
    )


FEW_EACH = ((30, 11, 13), (60, 8, 13), (120, 5, 9), (240, 4, 6))
"""Up to so many samples of a class the noise rate was said so many points too high, on average and
at most, where the truth is known: docs/features.md has the table."""
APART = 0.02  # by which rounds must differ in the rate before few samples are a reason to doubt it


def with_few_told(found: Findings, fit: CrossFit) -> Findings:
    """Findings of all labels that were judged, with a doubt where so few of a class make the rate
    too high: the errors of heads that have seen few pass for wrong labels.

    Heads that see well from few samples, of classes that lie far apart, say the same in all rounds,
    and there is no doubt.
    """
    given, rate = found.given_label, fit.rate.estimate
    each = len(given) / max(len(np.unique(given)), 1)
    later = 1 - float(fit.posterior[np.arange(len(given)), given].mean())
    graded = [(mean, most) for few, mean, most in FEW_EACH if each <= few]
    if not graded or rate - later <= APART:
        return found
    mean, most = graded[0]
    doubt = (
        f"few samples: {each:.0f} of a class; where the truth is known, the noise rate of so few "
        f"was said {mean} points too high on average and {most} at most, so {rate:.0%} may be "
        f"{max(rate - mean / 100, 0):.0%} (--audit 50 tells)"
    )
    at = len(found.doubts) - (INVISIBLE in found.doubts)
    doubts = [*found.doubts[:at], doubt, *found.doubts[at:]]
    return dataclasses.replace(found, doubts=doubts)


def flagged_by(wrong: Vector) -> IntArray:
    """The labels, worst first, whose flagging makes the expected F1 largest (Lipton et al. 2014),
    where `wrong` [N] is how likely each is wrong."""
    order = np.argsort(-wrong, kind="stable")
    expected = 2 * wrong[order].cumsum() / (np.arange(1, len(wrong) + 1) + wrong.sum())
    chosen: IntArray = order[: int(expected.argmax()) + 1]
    return chosen
