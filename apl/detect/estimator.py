"""A classifier for scikit-learn's users that learns from labels of which some are wrong.

`RobustClassifier` judges and repairs the labels by cross-fitted heads (`apl.training.crossfit`),
and trains one head on what they became.  All of it happens in memory, in the process that asks:
small tables take a fraction of a second.  docs/estimator.md has what it reaches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils import validation as checks
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.multiclass import check_classification_targets

from apl.cores import one_thread
from apl.data.depth import as_pixels, channels_last
from apl.data.labels import as_text, no_labels, require_one_order
from apl.detect.crossfit import findings_of
from apl.detect.evidence import Findings, untold
from apl.errors import BadInput, cut, require
from apl.features.catalog import NONE, is_file, is_own_function, kind_of, require_features
from apl.features.store import digests_of
from apl.noise.labels import MOST_CLASSES, UNKNOWN, IntArray, Matrix, Vector
from apl.training.arrays import Recipe, require_loss, train_head
from apl.training.crossfit import Budget, CrossFit, cross_fit, principal

NETWORKS = ("linear", "mlp")
FEW = 10  # samples of a class from which on its labels can be judged
WIDE = 4096  # columns from which on rows are reduced before anything else,
REDUCED = 512  # to so many numbers
FARTHEST = 10.0  # standard deviations from the mean that a number may lie
# Of judging: tables take a fraction of a second, 10,000 rows no longer than logistic regressions.
BUDGET = Budget(
    rounds=1, epochs=7, batch=512, steps=150, hidden=128, narrow=True, quick=True, freer=False
)
FEW_NUMBERS = 1_000_000  # below which one thread is quickest
BLOCK = 4096  # rows at a time where many are asked for

Floats = npt.NDArray[np.floating[Any]]
Array = npt.NDArray[Any]


class RobustClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network that learns from labels of which some are wrong, as a scikit-learn classifier.

    Labels may be missing (nan, None, pandas' NA, and what `apl.load_data` takes for none): those
    samples are learned from by what the others say. Whole numbers as sample_weight count copies.

    After fitting there are, beside scikit-learn's attributes, those below; without repair there are
    none of the first four.

    Args:
        loss: A name of `apl.LOSSES`, or a sum, with parameters in brackets: `gce(q=0.9)`; None for
            cross entropy on repaired labels, NCE + RCE on labels as given.
        network: 'mlp' (one hidden layer) or 'linear'.
        repair: Whether labels are judged by heads that have not seen them, and what these say of
            the true class is learned; without it the labels as given are.
        epochs: Epochs in all; None for what serves everywhere.
        warm_start_epochs: The first of these, with cross entropy; None for what serves everywhere.
        features: None for rows of numbers; for texts 'tfidf', 'minilm' or 'st:NAME', for images [N,
            H, W, C] 'lite0', 'torchvision:NAME' or 'timm:NAME', for either 'module:function'.
        lr: The learning rate; None for what serves everywhere.
        weight_decay: The weight decay; None for what serves everywhere.
        width: Hidden units; None for what serves everywhere.
        random_state: An integer or a RandomState; None draws what 0 draws.

    Attributes:
        label_issues_ (DataFrame): A row a sample, in the columns of cleanlab's Datalab.
        noise_rate_ (Rate): Estimate, low and high of the share of wrong labels.
        transition_ (ndarray): The noise matrix [K, K], row the true class, column the given label.
        doubts_ (list[str]): Why not to trust these.
        history_ (list[dict[str, float]]): A row an epoch.
        n_iter_ (int): Epochs.
    """

    def __init__(  # scikit-learn wants each setting by name
        self,
        loss: str | None = None,
        network: str = "mlp",
        repair: bool = True,
        epochs: int | None = None,
        warm_start_epochs: int | None = None,
        features: str | None = None,
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        width: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.loss = loss
        self.network = network
        self.repair = repair
        self.epochs = epochs
        self.warm_start_epochs = warm_start_epochs
        self.features = features
        self.lr = lr
        self.weight_decay = weight_decay
        self.width = width
        self.random_state = random_state

    # ------------------------------------------------------------------------- what is asked

    def fit(self, X: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> RobustClassifier:
        """Learn from samples and their labels.

        Args:
            X: N samples, rows of numbers, texts or images.
            y: Their labels [N].
            sample_weight: How much each counts [N], 0 for not at all.

        Returns:
            The classifier itself.

        Raises:
            ValueError: What is given does not fit; BadInput is a ValueError.
        """
        recipe = self._recipe()
        if y is None:
            raise BadInput(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        require_one_order(X, y)
        require_one_order(X, sample_weight, of="sample_weight has")
        rows = self._rows(X, recipe.seed, fit=True)
        self.classes_, given = read_labels(y)
        checks.check_consistent_length(rows, given)
        weights = _weights(sample_weight, rows)
        self.classes_, given = _of_weight(self.classes_, given, weights)
        distinct = Distinct.of(rows, given, weights)
        labels, fit = given[distinct.first], None
        known = labels != UNKNOWN
        targets = np.eye(len(self.classes_))[labels]
        seen = torch.from_numpy(self._standardise(rows[distinct.first], distinct.weights))
        with _as_torch_begins(seen.numel()):
            into = principal(seen, distinct.weights)
            few = seen @ into.float()
            if self.repair:
                fit = _judged(seen, few, labels, distinct, len(self.classes_), recipe.seed)
            if fit is not None:
                known, targets = np.ones(len(labels), bool), fit.posterior
            self._train(few[known], into, targets[known], distinct.weights[known], recipe)
        if self.repair:
            index = X.index if isinstance(X, pd.DataFrame | pd.Series) else None
            self._tell(fit, rows, given, distinct, index)
        return self

    def predict(self, X: Any) -> Array:
        """The likeliest class of each sample [N].

        Args:
            X: Samples as in `fit`.
        """
        likeliest = self._logits(X).argmax(1)
        chosen: Array = self.classes_[likeliest]
        return chosen

    def predict_proba(self, X: Any) -> Matrix:
        """The probability of each class [N, K], in the order of `classes_`.

        Args:
            X: Samples as in `fit`.
        """
        return softmax(self._logits(X))

    def decision_function(self, X: Any) -> Matrix | Vector:
        """The logits [N, K]; of two classes how far the second is ahead of the first [N].

        Args:
            X: Samples as in `fit`.
        """
        logits = self._logits(X)
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def __sklearn_tags__(self) -> Any:  # from scikit-learn 1.6 on
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.features is None
        return tags

    def _more_tags(self) -> dict[str, Any]:  # before
        return {"X_types": ["2darray", "sparse"]}

    # ----------------------------------------------------------------------- how it is done

    def _recipe(self) -> Recipe:
        """How the head is trained, from settings that fit."""
        require(self.network in NETWORKS, "network", self.network, ", ".join(NETWORKS))
        accepted = "the name of a loss, a sum, or None"
        require(self.loss is None or isinstance(self.loss, str), "loss", self.loss, accepted)
        loss = self.loss or ("ce" if self.repair else "nce_rce")
        require_loss(loss)
        whole = {"epochs": 1, "warm_start_epochs": 0, "width": 1}
        for name, least in whole.items():
            value = getattr(self, name)
            fits = value is None or (isinstance(value, numbers.Integral) and int(value) >= least)
            require(fits, name, value, f"a whole number from {least} on, or None")
        for name, zero in (("lr", False), ("weight_decay", True)):
            value = getattr(self, name)
            fits = value is None or (
                isinstance(value, numbers.Real) and 0 <= float(value) < math.inf
            )
            fits = fits and (zero or value != 0)
            require(fits, name, value, "a finite number above 0, or None")
        fits = isinstance(self.repair, bool | np.bool_)
        require(fits, "repair", self.repair, "True, or False")
        given = {name: getattr(self, name) for name in (*whole, "lr", "weight_decay")}
        chosen = {name: value for name, value in given.items() if value is not None}
        seed = 0 if self.random_state is None else self.random_state
        drawn = int(check_random_state(seed).randint(2**31 - 1))
        return Recipe(loss, self.network, seed=drawn, **chosen)

    def _rows(self, X: Any, seed: int = 0, fit: bool = False) -> Floats:
        """Samples as rows of numbers [N, F], before they are standardised."""
        if self.features is not None:
            return self._embedded(X, fit)
        rows = _checked(self, X, fit)
        if fit:
            self._reduction = _reduction(rows, seed) if rows.shape[1] > WIDE else None
        if self._reduction is not None:
            made: Floats = np.asarray(rows @ self._reduction)
            return made
        whole: Floats = rows.toarray() if sparse.issparse(rows) else rows
        return whole

    def _embedded(self, X: Any, fit: bool) -> Floats:
        """The features of images or texts [N, F]."""
        name = str(self.features)
        require_features(name)
        named = not is_file(name) and name != NONE
        require(named, "features", name, "a name, or None: vectors are X itself")
        samples = _samples(X, name)
        if name == "tfidf":
            from apl.features.words import fit_counts

            if fit:
                self._counts = fit_counts(samples)
            made: Floats = self._counts.rows(samples)
            return made
        from apl.features.make import make_backbone
        from apl.features.store import as_rows

        backbone = make_backbone(name, imports=(name,) if is_own_function(name) else ())
        rows = []
        for first in range(0, len(samples), backbone.batch):
            batch = samples[first : first + backbone.batch]
            which = range(first, len(samples))
            rows.append(as_rows(backbone.of(batch), len(batch), name, which))
        found: Floats = np.concatenate(rows).astype(np.float32)
        return found

    def _standardise(self, rows: Floats, weights: Vector) -> npt.NDArray[np.float32]:
        """Rows [N, F] with mean 0 and std 1 in each column, for which both are kept; what is the
        same in all rows becomes 0, and so does what features hardly differ in."""
        largest = np.abs(rows).max(0, initial=0).astype(np.float64)
        unit = np.where(largest > 0, largest, 1.0)  # so that no square overflows
        shares = weights / weights.sum()
        mean = shares @ (rows / unit)
        std = np.sqrt(shares @ (rows / unit - mean) ** 2)
        self._mean = mean * unit
        least = np.full(len(std), 1e-9)
        if self.features is not None:  # of one scale: what is far below it is rounding
            least = np.maximum(least, 0.01 * (std * unit).mean() / unit)
        self._scale = np.where(std > least, 1 / (std.clip(1e-9) * unit), 0.0)
        made: npt.NDArray[np.float32] = self._standard(rows).astype(np.float32)
        return made

    def _standard(self, rows: Floats) -> Floats:
        """Rows [N, F] standardised as those were that were fitted, within FARTHEST."""
        found: Floats = ((rows - self._mean) * self._scale).clip(-FARTHEST, FARTHEST)
        return found

    def _train(
        self,
        few: torch.Tensor,
        into: torch.Tensor,
        targets: Matrix,
        weights: Vector,
        recipe: Recipe,
    ) -> None:
        """Train the head on what `into` makes of the samples, and keep both as numpy's arrays."""
        if targets.shape[1] == 1:  # one class, which everything is of
            self.coefs_, self.intercepts_ = [np.zeros((len(into), 1))], [np.zeros(1)]
            self.history_, self.n_iter_ = [], 0
            return
        head = train_head(few, torch.from_numpy(targets).float(), weights, recipe)
        self.coefs_ = [into.numpy() @ head.weights[0], *head.weights[1:]]
        self.intercepts_, self.history_ = head.biases, head.history
        self.n_iter_ = len(head.history)

    def _logits(self, X: Any) -> Matrix:
        checks.check_is_fitted(self)
        rows = self._rows(X)
        return np.concatenate([self._of(rows[i : i + BLOCK]) for i in range(0, len(rows), BLOCK)])

    def _of(self, rows: Floats) -> Matrix:
        """The logits [N, K] of rows [N, F], in float64: a row's do not depend on the others."""
        values: Matrix = self._standard(rows).astype(np.float64)
        for i, (weight, bias) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            values = (values.clip(0) if i else values) @ weight + bias
        return values

    def _tell(
        self, fit: CrossFit | None, rows: Floats, given: IntArray, distinct: Distinct, index: Any
    ) -> None:
        """Keep what was found of the labels, a row a sample as they came."""
        names = [str(each) for each in self.classes_]
        found, which = _findings(fit, given[distinct.first], names), distinct.which
        judged = which >= 0
        predicted = found.predicted_label[which]
        if not judged.all():
            predicted = np.where(judged, predicted, self._of(rows).argmax(1))
        columns = {
            "is_label_issue": np.where(judged, found.is_label_issue[which], False),
            "label_score": np.where(judged, found.label_score[which], np.nan),
            "given_label": _named(self.classes_, given),
            "predicted_label": self.classes_[predicted],
        }
        self.label_issues_ = pd.DataFrame(columns, index=index)
        self.noise_rate_, self.transition_ = found.noise_rate, found.transition
        self.doubts_ = found.doubts


class Distinct(NamedTuple):
    """Samples of some weight, those that are alike in row and label taken together, in an order
    that follows from what they hold: so weights of whole numbers are the same as copies.

    first: the place of one of each [D]; which: the one that a sample is, -1 for weight 0 [N].
    weights: together [D]; copies: how many each stands for [D].
    """

    first: IntArray
    which: IntArray
    weights: Vector
    copies: Vector

    @classmethod
    def of(cls, rows: Floats, given: IntArray, weights: Vector) -> Distinct:
        """Those of rows [N, F], labels [N] and weights [N]."""
        there = np.flatnonzero(weights > 0)
        held = np.column_stack([given[there], rows[there] + 0.0])  # -0 is 0
        _, first, which = np.unique(
            digests_of(torch.from_numpy(held)), return_index=True, return_inverse=True
        )
        of_all = np.full(len(given), -1)
        of_all[there] = which.reshape(-1)
        alike = which.reshape(-1)
        together = np.bincount(alike, weights[there]).astype(np.float64)
        counted = bool((weights == np.rint(weights)).all())
        copies = together if counted else np.bincount(alike).astype(np.float64)
        return cls(there[first], of_all, together, copies)


# ------------------------------------------------------------------------------ what is given


def read_labels(y: Any) -> tuple[Array, IntArray]:
    """The classes of labels [N] as scikit-learn has them, and the number of each label's class [N],
    UNKNOWN where there is none: nan, None, pandas' NA, and what `apl.data.labels` takes for none,
    which is told where scikit-learn would take it for a class.

    Raises BadInput for what are no classes.
    """
    values = y.detach().cpu().numpy() if hasattr(y, "detach") else y
    if isinstance(values, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(values)
        values = values.data.astype(object)
        values[hidden] = None
    if isinstance(values, pd.Series) and pd.api.types.is_extension_array_dtype(values.dtype):
        values = values.to_numpy(object)
    values = checks.column_or_1d(values, warn=True)
    codes, found = pd.factorize(values)
    if found.dtype.kind == "f" and np.isinf(found).any():
        raise BadInput("Input y contains infinity; accepted: classes, and nan for no label")
    texts = [as_text(each) for each in found]
    none = no_labels(texts)
    lost = np.array([text in none for text in texts], bool)
    if lost.any():
        which = ", ".join(sorted({repr(each) for each in np.array(texts)[lost].tolist()}))
        count = int(lost[codes[codes >= 0]].sum())
        warnings.warn(
            f"{count:,} labels are {which}, taken for no label: a class needs another name",
            UserWarning,
            stacklevel=3,
        )
    known = (codes >= 0) & ~np.append(lost, True)[codes]
    if not known.any():
        raise BadInput("Input y contains NaN alone: no sample has a label to learn a class from")
    labels = values[known]
    if labels.dtype == object and not all(isinstance(each, str) for each in found[~lost]):
        labels = np.array(labels.tolist())
        if labels.dtype.kind not in "biuf":
            raise BadInput(
                "Unknown label type: words and numbers are mixed in y; accepted: one kind"
            )
    check_classification_targets(labels)
    classes, places = np.unique(labels, return_inverse=True)
    given = np.full(len(values), UNKNOWN)
    given[known] = places.reshape(-1)
    return classes, given


def _of_weight(classes: Array, given: IntArray, weights: Vector) -> tuple[Array, IntArray]:
    """Classes and labels [N] without the classes that only samples of weight 0 have."""
    kept = np.unique(given[(weights > 0) & (given != UNKNOWN)])
    if not len(kept):
        raise BadInput("no sample with a weight above 0 has a class; accepted: one at least")
    places = np.full(len(classes) + 1, UNKNOWN)
    places[kept] = np.arange(len(kept))
    return classes[kept], places[given]


def _weights(sample_weight: Any, rows: Floats) -> Vector:
    """How much each sample counts [N]."""
    found: Vector = checks._check_sample_weight(sample_weight, rows, dtype=np.float64)
    lowest = float(found.min())
    require(lowest >= 0, "the lowest sample_weight", lowest, "numbers from 0 on")
    return found


def _checked(estimator: Any, X: Any, fit: bool) -> Any:
    """Rows of numbers, dense or CSR, as scikit-learn checks them."""
    how: dict[str, Any] = {"accept_sparse": "csr", "dtype": [np.float64, np.float32], "reset": fit}
    try:
        if hasattr(checks, "validate_data"):  # from scikit-learn 1.6 on
            return checks.validate_data(estimator, X, **how)
        return estimator._validate_data(X, **how)
    except ValueError as error:
        words = [
            str(name)
            for name, kind in getattr(X, "dtypes", pd.Series(dtype=object)).items()
            if not pd.api.types.is_numeric_dtype(kind)
        ]
        if "could not convert" not in str(error):
            raise
        which = f"the columns {cut(', '.join(words), 100)}" if words else "X"
        raise BadInput(
            f"{which} hold words; accepted: numbers, so encode them before: "
            "make_pipeline(make_column_transformer((OneHotEncoder(handle_unknown='ignore'), "
            "COLUMNS), remainder='passthrough'), RobustClassifier()), or features='tfidf' for texts"
        ) from None


def _samples(X: Any, name: str) -> Any:
    """Texts as a list, or images as a tensor uint8 [N, H, W, C]."""
    if hasattr(X, "columns"):
        fits = X.shape[1] == 1
        require(fits, "the columns of X", X.shape[1], f"one, of what features {name!r} are of")
        X = X.iloc[:, 0]
    values = X.to_numpy() if hasattr(X, "to_numpy") else X
    images = kind_of(name) == "images" or getattr(values, "ndim", 1) > 2
    if images:
        pixels = as_pixels([channels_last(values, "X")], "X", lambda line: None)
        return torch.from_numpy(pixels)
    texts = [*np.asarray(values, dtype=object).reshape(-1)] if len(values) else []
    bad = next((each for each in texts if not isinstance(each, str)), None)
    require(bad is None, "a text of X", bad, "words, as features of texts read them")
    if not texts:
        raise BadInput("Found array with 0 sample(s): X holds no text; accepted: one at least")
    return texts


# ---------------------------------------------------------------------------------- arithmetic


def _judged(  # samples and their components, labels and how much each counts
    seen: torch.Tensor,
    few: torch.Tensor,
    labels: IntArray,
    distinct: Distinct,
    classes: int,
    seed: int,
) -> CrossFit | None:
    """What cross-fitted heads say of labels [D]; a class of fewer than FEW samples is taken as
    given, and None is said where there are no others."""
    most = f"at most {MOST_CLASSES:,}, or repair=False"
    require(classes <= MOST_CLASSES, "the number of classes", classes, most)
    known = labels != UNKNOWN
    counts = np.bincount(labels[known], distinct.copies[known], classes)
    sure = np.where(known & (counts < FEW)[labels], labels, UNKNOWN)
    if classes == 1 or (sure == labels).all():
        return None
    return cross_fit(
        seen,
        labels,
        classes,
        decided=sure,
        seed=seed,
        weights=distinct.weights,
        copies=distinct.copies,
        components=few,
        budget=BUDGET,
    )


def _findings(fit: CrossFit | None, labels: IntArray, names: list[str]) -> Findings:
    """What was found of labels [D], of which some may be missing."""
    known = labels != UNKNOWN
    if fit is None:
        nothing = f"fewer than {FEW} samples of each class, or one class: no label was judged"
        whole = untold(labels, len(names), [nothing])
        whole.predicted_label[known] = labels[known]
        return whole
    of_known = dataclasses.replace(
        fit, clean=fit.clean[known], posterior=fit.posterior[known], wrong=fit.wrong[known]
    )
    part = findings_of(of_known, labels[known], names)
    doubts = [*part.doubts]
    if not known.all():
        doubts.insert(
            0, f"{int((~known).sum()):,} samples have no label, and a predicted one alone"
        )
    whole = untold(labels, len(names), doubts)
    whole.predicted_label[:] = fit.clean.argmax(1)
    for name in ("is_label_issue", "label_score", "predicted_label"):
        getattr(whole, name)[known] = getattr(part, name)
    return dataclasses.replace(whole, noise_rate=part.noise_rate, transition=part.transition)


def _named(classes: Array, given: IntArray) -> Array:
    """Labels [N] by their classes, None where there is none."""
    if (given != UNKNOWN).all():
        return classes[given]
    named = classes.astype(object)[given]
    named[given == UNKNOWN] = None
    return named


def _reduction(rows: Any, seed: int) -> Floats:
    """What makes few numbers of wide rows [N, F], by a truncated SVD: [F, REDUCED]."""
    size = max(1, min(REDUCED, rows.shape[0] - 1))
    if sparse.issparse(rows):  # counts of words mostly, which are of one scale
        scale = np.ones(rows.shape[1])
    else:
        largest = np.abs(rows).max(0)
        std = (rows / np.where(largest > 0, largest, 1)).std(0)
        scale = np.where(std > 1e-9, 1 / (std.clip(1e-9) * np.where(largest > 0, largest, 1)), 0.0)
    scaled = rows @ sparse.diags(scale) if sparse.issparse(rows) else rows * scale
    _, _, into = randomized_svd(scaled, size, random_state=seed % 2**32)
    made: Floats = scale[:, None] * into.T
    return made


def softmax(logits: Matrix) -> Matrix:
    """The probabilities of each class [N, K]."""
    chances: Matrix = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return chances


@contextlib.contextmanager
def _as_torch_begins(numbers: int) -> Iterator[None]:
    """The defaults that torch begins with, whatever the caller has set, and theirs again after; of
    few numbers one thread, since several wait for each other longer than they work."""
    before = torch.get_default_dtype()
    elsewhere = torch.get_default_device().type != "cpu"  # the mode costs more than small steps do
    with (
        torch.device("cpu") if elsewhere else contextlib.nullcontext(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        one_thread(numbers < FEW_NUMBERS),
    ):
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(before)
