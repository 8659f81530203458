"""What features say of labels: heads that judge what they have not seen, by a learned noise matrix.

Five folds at a time, so that every sample is judged by a head that has not seen its label.  First a
linear head and the noise matrix are learned together, by the likelihood of the given labels; from
this round come the noise rate and its interval.  Further rounds learn from what the one before says
of the true labels, softly, with a hidden layer: they rank better, and are too sure of themselves,
so the rate of the first round decides how many are flagged.  They also come to believe each other:
so the order of the labels, and nothing else, hears heads too that learn from the first round alone
and are held back less.  docs/features.md has what it reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apl.cores import one_thread
from apl.errors import Interrupted
from apl.noise.labels import UNKNOWN, IntArray, Matrix, Rate, Vector
from apl.training.dropout import dropped

FOLDS = 5
COMPONENTS = 256  # principal ones, that the hidden layer sees
SMALLEST_BATCH, USUAL_BATCH = 16, 128  # up to which steps are as long; of more, longer
FIRST_LR, LATER_LR, MATRIX_LR = 0.02, 0.05, 1.5
DECAY, MOMENTUM = 5e-3, 0.9
FIRST_DROPOUT, INPUT_DROPOUT, HIDDEN_DROPOUT = 0.5, 0.2, 0.5
SPARE = 512  # features from which on they say things twice; of fewer a smaller share is left out
FIXED_EPOCHS = 2  # in which the matrix stays as it begins,
DIAGONAL = 0.8  # with so much on its diagonal
KEPT = 0.2  # log of how much more of a class keeps its name than takes any other one's, at least
EM_ROUNDS = 30
PSEUDO = 0.1  # counts of each flip before any is seen
FEW_PRODUCTS = 100_000_000  # of numbers, in a step, below which one thread is enough
EACH = 15.0  # of one feature at most: a few that mean much must not make a step too long
VARIANCE = 1280.0  # of all features together: so rates and decay mean the same for any number
SMALLER = 85.0  # of all components together
FREER, FREER_DECAY = 200.0, 1e-3  # the same of heads that are held back less
UNSEEN_SAYS, SEEN_SAYS = 0.25, 0.5  # of these, of labels in their fold and in others, in the order
FEWEST = 5000  # samples from which on they are asked: fewer are learned by heart
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5)
TOWARDS = 1 / 3  # how far the rate goes from that of the heads' chances to that of tempered ones
BELOW, ABOVE = 0.03, 0.03  # how far the rate may lie from the estimate: people err on hard samples
ENOUGH = 10_000  # samples; of fewer the heads of the first round err more, and it may lie lower


@dataclass(frozen=True)
class Budget:
    """What judging may cost: values of one way to do it.

    rounds: after the first one; epochs and batch: of each round, where samples are many; steps: the
    fewest of a round, for which few samples have more epochs; hidden: units of each fold's head;
    narrow: whether the linear heads of the first round see principal components alone, too; quick:
    whether dropout has masks of random bytes; freer: whether, where there are further rounds, heads
    that are held back less have a say in the order of the labels, FEWEST of them or more.
    """

    rounds: int = 2
    epochs: int = 15
    batch: int = 128
    steps: int = 1000
    hidden: int = 256
    narrow: bool = False
    quick: bool = False
    freer: bool = True


BUDGET = Budget()


@dataclass(frozen=True)
class CrossFit:
    """What cross-fitted heads say of N labels.

    clean: the chance of each true class by the sample alone [N, K]; posterior: by sample and given
    label [N, K], 1 for the class that somebody has decided on; transition: the noise matrix
    [K, K]; wrong: how likely each label is wrong [N], so that their mean is the noise rate, 0 where
    none is given; rate: of the first round, with its interval, of labels that nobody decided on.
    """

    clean: Matrix
    posterior: Matrix
    transition: Matrix
    wrong: Vector
    rate: Rate


def cross_fit(  # what is judged, how, and two ways to follow it
    rows: Tensor,
    labels: IntArray,
    classes: int,
    *,
    decided: IntArray | None = None,
    weights: Vector | None = None,
    copies: Vector | None = None,
    components: Tensor | None = None,
    seed: int = 0,
    budget: Budget = BUDGET,
    should_stop: Callable[[], bool] = lambda: False,
    on_round: Callable[[int, int], object] = lambda done, total: None,
) -> CrossFit:
    """Judge given labels [N], UNKNOWN where there is none, by features [N, F] of any float type.

    decided: the true class of each sample that somebody has looked at, UNKNOWN of the others [N]:
    it is learned as it is, and says nothing of the noise, since nobody chose at random what to look
    at.  weights: how much each sample counts [N]; copies: how many alike it stands for [N], all but
    one of which the head that judges it has seen.  components: what `principal` makes of the
    features, from who has them [N, D].  seed: of folds, order, initial weights and
    dropout.  budget: what it may cost.  should_stop: asked after each epoch, and True raises
    Interrupted; on_round: called after each round with how many are done and in all.
    """
    sure = np.full(len(labels), UNKNOWN) if decided is None else decided
    stands = np.ones(len(labels)) if copies is None else copies
    counts = stands if weights is None else weights * (stands.sum() / weights.sum())
    looked_at = sure != UNKNOWN
    doubted = np.where(looked_at, UNKNOWN, labels)  # what the noise matrix has a say in
    free = doubted != UNKNOWN
    folds = stratified(np.where(looked_at, sure, labels), FOLDS, seed)
    seen, few, rounds = _by_fold(folds, counts, stands), components, budget.rounds
    narrow = budget.narrow and rows.shape[1] > COMPONENTS
    if few is None or not narrow:
        features = _standardised(rows)
    if few is None and (rounds or narrow):
        few = features @ principal(features).float()
    if few is not None and narrow:
        features = few * math.sqrt(VARIANCE / SMALLER)
    training = _Training(features, folds, seen, seed, budget, should_stop)
    clean = training.first(torch.from_numpy(doubted), torch.from_numpy(sure), classes)
    posterior, transition = explain(clean, doubted, counts)
    first = 1 - _of_label(posterior[free], labels[free])
    at_first = posterior
    freer = budget.freer and rounds > 0 and len(first) >= FEWEST
    total = rounds + 1 + freer
    on_round(1, total)
    plain = later = _mean(first, counts[free])
    tempered = plain
    if len(first):
        tempered = min(plain, _tempered_rate(clean[free], labels[free], counts[free]))
    estimate = plain + TOWARDS * (tempered - plain)
    odds: list[Vector] = []
    if few is not None:
        training = _Training(few, folds, seen, seed, budget, should_stop)
    cleans: list[Matrix] = []
    for round in range(rounds):
        targets = torch.from_numpy(_with_decisions(posterior, sure)).float()
        clean, _ = training.later(targets, round + 1)
        posterior, transition = explain(clean, doubted, counts)
        cleans.append(clean)
        wrong = (1 - _of_label(posterior[free], labels[free])).clip(1e-9, 1 - 1e-9)
        odds.append(_log_odds(wrong))
        later = _mean(wrong, counts[free])
        on_round(round + 2, total)
    if rounds:  # what several rounds say together is steadier than the last one
        clean = np.mean(cleans, 0)
        posterior, transition = explain(clean, doubted, counts)
    else:
        odds = [_log_odds(first)]
    wrong = (looked_at & (labels != UNKNOWN) & (labels != sure)).astype(np.float64)
    if len(first):
        wrong[free] = _with_mean(np.mean(odds, 0), estimate, counts[free])
    if few is not None and freer:
        wide = few * math.sqrt(FREER / SMALLER)
        training = _Training(wide, folds, seen, seed, budget, should_stop)
        targets = torch.from_numpy(_with_decisions(at_first, sure)).float()
        unseen, learned = training.later(targets, rounds + 1, FREER_DECAY)
        by_unseen, flips = explain(unseen, doubted, counts)
        by_learned = _posterior(learned, flips, doubted)
        order = odds[-1]
        for says, said in ((UNSEEN_SAYS, by_unseen), (SEEN_SAYS, by_learned)):
            order = order + says * _log_odds(1 - _of_label(said[free], labels[free]))
        ordered = _log_odds(in_order(wrong[free], order))
        wrong[free] = _with_mean(ordered, estimate, counts[free])
        on_round(total, total)
    differs = _mean((clean.argmax(1) != labels)[free].astype(np.float64), counts[free])
    rate = _rate(estimate, later, differs, max(1.0, float(stands[free].sum())))
    return CrossFit(clean, _with_decisions(posterior, sure), transition, wrong, rate)


def heads_on(
    rows: Tensor, labels: IntArray, seed: int = 0, should_stop: Callable[[], bool] = lambda: False
) -> Callable[[Matrix, int], Matrix]:
    """A function that has heads with a hidden layer learn soft targets [N, K] on features [N, F],
    the given number deciding their weights; it returns what each says of the samples that it has
    not seen [N, K].  labels: what all folds get their share of [N]."""
    folds = stratified(labels, FOLDS, seed)
    wide = _standardised(rows)
    features = wide @ principal(wide).float()
    once = np.ones(len(folds))
    seen = _by_fold(folds, once, once)
    training = _Training(features, folds, seen, seed, BUDGET, should_stop)
    return lambda targets, number: training.later(torch.from_numpy(targets).float(), number)[0]


def explain(clean: Matrix, labels: IntArray, counts: Vector | None = None) -> tuple[Matrix, Matrix]:
    """The posterior of the true class [N, K] by sample and given label, and the noise matrix
    [K, K], from what is said of samples whose label was not seen [N, K]: EM for the matrix alone.
    Where there is no label the sample alone speaks.  counts: how much each sample does [N].
    """
    classes = clean.shape[1]
    share = np.ones((len(labels), 1)) if counts is None else counts[:, None]
    transition = np.full((classes, classes), (1 - DIAGONAL) / max(classes - 1, 1))
    np.fill_diagonal(transition, DIAGONAL)
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] != UNKNOWN]
    carried, starts = np.unique(labels[order], return_index=True)
    for _ in range(EM_ROUNDS):
        posterior = _posterior(clean, transition, labels)
        flips = np.full((classes, classes), PSEUDO)
        if len(order):
            flips[:, carried] += np.add.reduceat((posterior * share)[order], starts).T
        transition = flips / flips.sum(1, keepdims=True)
    return _posterior(clean, transition, labels), transition


def _tempered_rate(clean: Matrix, labels: IntArray, counts: Vector) -> float:
    """The rate where the heads' chances have the temperature that makes the given labels likeliest.

    That is right where noise does not depend on the sample, and too low where people err on hard
    ones: it takes their errors for doubt of the heads'.
    """
    best, rate = -math.inf, 0.0
    for temperature in TEMPERATURES:
        chances = clean.clip(1e-12) ** (1 / temperature)
        chances /= chances.sum(1, keepdims=True)
        posterior, transition = explain(chances, labels, counts)
        likelihood = _mean(np.log((chances * transition.T[labels]).sum(1).clip(1e-12)), counts)
        if likelihood > best:
            best, rate = likelihood, 1 - _mean(_of_label(posterior, labels), counts)
    return rate


def stratified(labels: IntArray, folds: int, seed: int) -> IntArray:
    """The fold of each sample [N], every class spread over all of them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % folds
    return fold


def _by_fold(folds: IntArray, counts: Vector, copies: Vector) -> Tensor:
    """How much each sample counts for the head of each fold [N, folds]: for that of its own only
    the copies that are not held out, which of most samples are none."""
    own = folds[:, None] == np.arange(int(folds.max()) + 1)
    return torch.from_numpy(counts[:, None] * np.where(own, 1 - 1 / copies[:, None], 1.0)).float()


def _mean(values: Vector, counts: Vector) -> float:
    """Their mean by how much each counts, 0 of none."""
    return float(values @ counts / counts.sum()) if len(values) else 0.0


def _posterior(clean: Matrix, transition: Matrix, labels: IntArray) -> Matrix:
    by_label = np.vstack([transition.T, np.ones(len(transition))])  # UNKNOWN takes the last row
    posterior: Matrix = clean * by_label[labels]
    posterior /= posterior.sum(1, keepdims=True).clip(1e-300)
    return posterior


def _with_decisions(posterior: Matrix, sure: IntArray) -> Matrix:
    """The posterior [N, K], 1 for the class that somebody has decided on."""
    looked_at = sure != UNKNOWN
    if not looked_at.any():
        return posterior
    made = posterior.copy()
    made[looked_at] = np.eye(posterior.shape[1])[sure[looked_at]]
    return made


def _of_label(values: Matrix, labels: IntArray) -> Vector:
    chosen: Vector = values[np.arange(len(labels)), labels]
    return chosen


def _log_odds(chances: Vector) -> Vector:
    sure: Vector = chances.clip(1e-9, 1 - 1e-9)
    odds: Vector = np.log(sure / (1 - sure))
    return odds


def in_order(chances: Vector, order: Vector) -> Vector:
    """The same chances [N], the largest for the sample whose `order` [N] is largest, and so on: as
    many samples are flagged by them, and their mean stays."""
    made = np.empty_like(chances)
    made[np.argsort(order, kind="stable")] = np.sort(chances)
    return made


def _with_mean(odds: Vector, mean: float, counts: Vector) -> Vector:
    """Chances [N] in the order of these log-odds, moved by one number so that `mean` is theirs."""
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        if _mean(1 / (1 + np.exp(-(odds + middle).clip(-500, 500))), counts) < mean:
            low = middle
        else:
            high = middle
    chances: Vector = 1 / (1 + np.exp(-(odds + low).clip(-500, 500)))
    return chances


def _rate(estimate: float, later: float, differs: float, count: float) -> Rate:
    """The rate with its interval: two standard errors around what the rounds allow, which is no
    less than the last one says and no more than predictions differ, within BELOW and ABOVE."""
    error = 2 * math.sqrt(max(estimate * (1 - estimate), 0.01) / count)
    below = BELOW * max(1.0, ENOUGH / count) ** 0.25
    low = min(max(later, estimate - below), estimate) - error
    high = max(min(differs, estimate + ABOVE), estimate) + error
    return Rate(estimate, max(0.0, low), min(1.0, high))


def _standardised(rows: Tensor) -> Tensor:
    wide: Tensor = rows.float()
    std = wide.std(0, unbiased=False)
    same = std <= 1e-4 * std.mean()
    scale: Tensor = torch.where(same, 0.0, 1 / std.clamp(min=1e-12))
    varied = max(1, wide.shape[1] - int(same.sum()))
    made: Tensor = (wide - wide.mean(0)) * (scale * math.sqrt(min(VARIANCE / varied, EACH)))
    return made


def principal(features: Tensor, counts: Vector | None = None) -> Tensor:
    """What makes the principal components, of the variance SMALLER together, of features [N, F]
    whose means are 0: [F, D], float64.  counts: how much each sample does [N]."""
    if counts is None:
        covariance = features.T @ features / len(features)
    else:
        share = torch.from_numpy(counts / counts.sum()).float()
        covariance = features.T @ (features * share[:, None])
    values, vectors = torch.linalg.eigh(covariance.double())
    size = max(1, min(COMPONENTS, int((values > 1e-6 * values[-1]).sum())))
    left = max(float(values[-size:].sum()), 1e-12)
    made: Tensor = vectors[:, -size:] * math.sqrt(min(SMALLER, features.shape[1]) / left)
    return made


class _Training:
    """All folds' heads at once: a step is one product for all of them, in which each counts the
    samples of the others' folds alone."""

    def __init__(
        self,
        features: Tensor,
        folds: IntArray,
        seen: Tensor,
        seed: int,
        budget: Budget,
        should_stop: Callable[[], bool],
    ) -> None:
        self.features, self.folds, self.seed = features, torch.from_numpy(folds), seed
        self.count = int(folds.max()) + 1
        self.should_stop, self.seen = should_stop, seen
        size = len(features)
        self.batch = max(SMALLEST_BATCH, min(budget.batch, size // 10))
        self.longer = max(1.0, self.batch / USUAL_BATCH)  # a step of more samples
        steps = math.ceil(size / self.batch)
        self.few = budget.steps > budget.epochs * steps
        self.epochs = max(budget.epochs, math.ceil(budget.steps / steps))
        self.steps = self.epochs * steps
        self.hidden, self.quick = budget.hidden, budget.quick

    def first(self, labels: Tensor, sure: Tensor, classes: int) -> Matrix:
        """Linear heads with a noise matrix each, learned together from labels in doubt [N] and
        sure classes [N], UNKNOWN where there is none; what they say of the true class of samples
        that they have not seen [N, K]."""
        width, device = self.features.shape[1], self.features.device
        dropout = FIRST_DROPOUT * min(1.0, width / SPARE)
        weight = torch.zeros(width, self.count * classes, device=device, requires_grad=True)
        bias = torch.zeros(self.count * classes, device=device, requires_grad=True)
        usual = torch.full((classes, classes), (1 - DIAGONAL) / max(classes - 1, 1), device=device)
        usual.fill_diagonal_(DIAGONAL)
        matrices = usual.log().repeat(self.count, 1, 1).requires_grad_()
        fixed = usual.expand(self.count, classes, classes)
        decided = bool((sure != UNKNOWN).any())
        optimiser = torch.optim.SGD(
            [
                {"params": [weight, bias], "lr": FIRST_LR * self.longer, "weight_decay": DECAY},
                {"params": [matrices], "lr": MATRIX_LR * self.longer},
            ],
            momentum=MOMENTUM,
        )
        if self.few:
            optimiser.register_step_post_hook(lambda *_: _keep_names(matrices))

        def loss(chosen: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
            seen = dropped(self.features[chosen], dropout, generator, self.quick)
            said = F.log_softmax((seen @ weight + bias).unflatten(1, (self.count, classes)), 2)
            flips = fixed if epoch < FIXED_EPOCHS else matrices.softmax(2)
            to_given = flips[:, :, labels[chosen]].permute(2, 0, 1)
            if decided:
                true, known = sure[chosen].clamp(min=0), sure[chosen] != UNKNOWN
                one_hot = F.one_hot(true, classes)[:, None].to(to_given)
                to_given = torch.where(known[:, None, None], one_hot, to_given)
            return -torch.logsumexp(said + to_given.clamp(min=1e-8).log(), 2)

        products = width * self.count * classes
        self._descend(optimiser, loss, 0, (labels != UNKNOWN) | (sure != UNKNOWN), products)
        with torch.no_grad():
            said = (self.features @ weight + bias).unflatten(1, (self.count, classes)).softmax(2)
            own = said[torch.arange(len(said)), self.folds]
        result: Matrix = own.double().numpy()
        return result

    def later(self, targets: Tensor, round: int, decay: float = DECAY) -> tuple[Matrix, Matrix]:
        """Heads with a hidden layer that learn soft targets [N, K]; what they say of samples that
        they have not seen [N, K], and in the mean of those that they have learned [N, K].  round: a
        number that decides their weights."""
        width, classes = self.features.shape[1], targets.shape[1]
        dropout = INPUT_DROPOUT * min(1.0, width / COMPONENTS)
        generator = self._generator(round)
        count, units = self.count, self.hidden
        into = torch.randn(width, count * units, generator=generator) / math.sqrt(3 * width)
        out = torch.randn(count, units, classes, generator=generator) / math.sqrt(3 * units)
        hidden_bias = torch.zeros(count * units)
        bias = torch.zeros(count, 1, classes)
        parameters = [each.requires_grad_() for each in (into, out, hidden_bias, bias)]
        rate = LATER_LR * self.longer
        optimiser = torch.optim.SGD(parameters, rate, MOMENTUM, weight_decay=decay)

        def answer(seen: Tensor, drop: float, generator: torch.Generator) -> Tensor:
            hidden = (seen @ into + hidden_bias).relu()
            hidden = dropped(hidden, drop, generator, self.quick)
            by_fold = hidden.unflatten(1, (count, units)).transpose(0, 1)
            return (torch.bmm(by_fold, out) + bias).transpose(0, 1)  # [B, folds, K]

        def loss(chosen: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
            seen = dropped(self.features[chosen], dropout, generator, self.quick)
            said = F.log_softmax(answer(seen, HIDDEN_DROPOUT, generator), 2)
            return -(said * targets[chosen][:, None]).sum(2)

        everyone = torch.ones(len(targets), dtype=torch.bool)
        products = (width + classes) * count * units
        self._descend(optimiser, loss, round, everyone, products)
        unseen, learned = [], []
        with torch.no_grad():
            for chosen in torch.arange(len(self.features)).split(1024):
                said = answer(self.features[chosen], 0.0, generator).softmax(2).double()
                own = said[torch.arange(len(said)), self.folds[chosen]]
                unseen.append(own)
                learned.append((said.sum(1) - own).clamp(min=0) / max(1, count - 1))
        return torch.cat(unseen).numpy(), torch.cat(learned).numpy()

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1000 + number) % 2**63)

    def _descend(
        self,
        optimiser: torch.optim.Optimizer,
        loss: Callable[[Tensor, int, torch.Generator], Tensor],
        round: int,
        counted: Tensor,
        products: int,
    ) -> None:
        """Train for all epochs with a cosine; loss: of a batch, by sample and fold [B, folds];
        counted: the samples that have something to teach [N]; products: of numbers that a sample
        takes, so that few are left to one thread."""
        with one_thread(self.batch * products < FEW_PRODUCTS):
            self._steps(optimiser, loss, round, counted)

    def _steps(
        self,
        optimiser: torch.optim.Optimizer,
        loss: Callable[[Tensor, int, torch.Generator], Tensor],
        round: int,
        counted: Tensor,
    ) -> None:
        generator = self._generator(500 + round)
        rates = [group["lr"] for group in optimiser.param_groups]
        step = 0
        for epoch in range(self.epochs):
            if self.should_stop():
                raise Interrupted
            for chosen in torch.randperm(len(self.features), generator=generator).split(self.batch):
                others = self.seen[chosen] * counted[chosen][:, None]
                share = (others.sum() / self.count).clamp(min=1)
                optimiser.zero_grad()
                value = (loss(chosen, epoch, generator) * others).sum() / share
                value.backward()
                factor = 0.5 * (1 + math.cos(math.pi * step / self.steps))
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                optimiser.step()
                step += 1


@torch.no_grad()
def _keep_names(matrices: Tensor) -> None:
    """Limit logits of noise matrices [folds, K, K], so that every class keeps its own name more
    often than it takes another: in few samples two classes else change places, unseen by the
    likelihood."""
    own = matrices.diagonal(dim1=1, dim2=2).clone()
    matrices.copy_(torch.minimum(matrices, own[:, :, None] - KEPT))
    matrices.diagonal(dim1=1, dim2=2).copy_(own)
