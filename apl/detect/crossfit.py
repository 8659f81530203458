"""Wrong labels from features: what the heads of `apl.training.crossfit` say, as findings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apl.detect.evidence import Evidence, Findings, doubts_of
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


def flagged_by(wrong: Vector) -> IntArray:
    """The labels, worst first, whose flagging makes the expected F1 largest (Lipton et al. 2014),
    where `wrong` [N] is how likely each is wrong."""
    order = np.argsort(-wrong, kind="stable")
    expected = 2 * wrong[order].cumsum() / (np.arange(1, len(wrong) + 1) + wrong.sum())
    chosen: IntArray = order[: int(expected.argmax()) + 1]
    return chosen
