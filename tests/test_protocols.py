"""What is published for a method, by data set and noise, and what a study makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim import lr_scheduler
from typer.testing import CliRunner

from apl.cli import _published_losses, app
from apl.config import Config, make_config, make_grid, study_commands
from apl.errors import BadInput
from apl.losses import LOSSES, params_of
from apl.presets import NOISES, PUBLISHED_BY_NOISE, PUBLISHED_WEIGHTS, published_settings
from apl.train import learning_rate, train

TRAINING = {"l1", "weight_decay"}


@pytest.mark.parametrize("tables", [PUBLISHED_WEIGHTS, PUBLISHED_BY_NOISE])
def test_published_settings_are_those_that_a_loss_takes(tables: dict[str, dict]) -> None:
    for losses in tables.values():
        for loss, settings in losses.items():
            by_noise = settings if tables is PUBLISHED_BY_NOISE else {"": settings}
            for kind, chosen in by_noise.items():
                assert loss in LOSSES
                assert kind == "" or kind.split()[0] in NOISES
                assert set(chosen) <= params_of(loss) | TRAINING, (loss, kind)


def test_settings_follow_the_noise_where_their_authors_did() -> None:
    assert published_settings("cifar10", "js", "sym", 0.6) == {"pi": 0.9}
    assert published_settings("cifar10", "js", "asym", 0.3) == {"pi": 0.3}
    eps = published_settings("cifar10", "eps_softmax_mae", "asym", 0.4)
    assert eps == {"alpha": 0.02, "beta": 5.0, "m": 1e3}
    assert published_settings("cifar100", "ce_lc_eps", "sym", 0.2) == {"delta": 0.5}
    assert published_settings("digits", "js", "sym", 0.6) == {}


def test_a_published_setting_is_no_setting_by_hand() -> None:
    for noise, rate in (("none", 0.0), ("sym", 0.6), ("asym", 0.3), ("human", 0.0)):
        for loss in ("js", "jal_ce", "eps_softmax_mae", "elr", "ce_lc_eps"):
            config = make_config("laptop", loss=loss, noise=noise, rate=rate)
            assert config.variant == ""
            assert Config.read(config.to_json()) == config
    jal = make_config("paper", loss="jal_ce")
    assert (jal.params, jal.l1, jal.weight_decay) == (
        {"alpha": 1.0, "beta": 1.0, "a": 30.0},
        *(5e-5, 0.0),
    )
    assert make_config("laptop", loss="js", rate=0.6, pi=0.5).variant == "pi=0.5"


def test_cifar100_is_flipped_in_blocks_as_everybodys_code_does() -> None:
    cells = make_grid("paper", ["ce"], ["asym"], [0.4], 1, dataset="cifar100")
    assert cells[0].map == "blocks"
    assert make_config("paper", noise="asym").map == "paper"
    assert make_config("quick", dataset="cifar100", noise="asym").map == "paper"
    assert make_config("report", noise="asym").map == "report"
    (command,) = study_commands(cells)
    assert "--map" not in command
    other = make_grid("paper", ["ce"], ["asym"], [0.4], 1, dataset="cifar100", map="superclass")
    assert "--map superclass" in study_commands(other)[0]


@pytest.mark.parametrize("preset", ["quick", "laptop", "paper"])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "mnist"])
def test_all_published_losses_make_a_study(preset: str, dataset: str) -> None:
    losses = _published_losses(dataset)
    assert {"ce", "gce", "nce_rce", "agce", "anl_ce", "ldr_kl", "sr"} <= set(losses)
    cells = make_grid(preset, losses, ["sym", "asym"], [0.4], 1, dataset=dataset)
    assert len(cells) == 2 * len(losses)
    assert {cell.variant for cell in cells} == {""}


def test_of_a_data_set_that_no_paper_has_nothing_is_published() -> None:
    done = CliRunner().invoke(app, ["study", "--losses", "all-published", "--seeds", "1"])
    line = "nothing is published of digits; accepted with all-published: cifar10, cifar100, mnist"
    assert line in str(done.exception or done.output)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        ("x0.97", lambda adam: lr_scheduler.ExponentialLR(adam, 0.97)),
        ("x0.2@3,7", lambda adam: lr_scheduler.MultiStepLR(adam, [3, 7], 0.2)),
    ],
)
def test_schedules_are_those_of_torch(
    schedule: str, theirs: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.4)
    falls = theirs(optimiser)
    asked = make_config(lr=0.4, epochs=10, schedule=schedule)
    for epoch in range(10):
        expected = optimiser.param_groups[0]["lr"]
        assert learning_rate(asked, epoch, 0.5) == pytest.approx(expected)
        optimiser.step()
        falls.step()
    assert f"schedule={schedule}" in asked.variant
    assert "schedule" not in make_config().to_json()


@pytest.mark.parametrize("schedule", ["linear", "x", "x2", "x0.1@", "x0.1@0,4", "x0.1@7,3", "x0"])
def test_what_is_no_schedule_is_told(schedule: str) -> None:
    with pytest.raises(BadInput, match=r"schedule is .*; accepted: cosine, x0\.97, or"):
        make_config(schedule=schedule)


def test_nesterov_needs_momentum_and_changes_the_run() -> None:
    with pytest.raises(BadInput, match="nesterov is True; accepted: only with momentum"):
        make_config(nesterov=True, momentum=0.0)
    with pytest.raises(BadInput, match="crop is 'plain'; accepted: only with crop_size"):
        make_config(crop="plain")
    small = {"epochs": 1, "train_size": 100, "network": "mlp", "width": 4}
    losses = []
    for nesterov in (False, True):
        rows: list[dict[str, float]] = []
        train(make_config(**small, nesterov=nesterov), on_epoch=rows.append, say=lambda line: None)
        losses.append(rows[0]["train_loss"])
    assert losses[0] != losses[1]
