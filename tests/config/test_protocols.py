"""What is published for a method, by data set and noise, and what a study makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler
from typer.testing import CliRunner

from apl.cli.app import app
from apl.config.config import Config, make_config
from apl.config.grid import ALL_PUBLISHED, make_grid, study_commands
from apl.config.presets import PRESETS
from apl.config.published import published_settings, settings_rows
from apl.data.dataset import Dataset
from apl.data.sources import human_labels, load_data
from apl.errors import BadInput
from apl.losses.catalog import LOSSES, loss_params, params_of
from apl.names import NOISES
from apl.training.fit import learning_rate
from apl.training.listener import Listener, ignore
from apl.training.train import train

TRAINING = {"l1", "weight_decay"}


def test_published_settings_are_those_that_a_loss_takes() -> None:
    rows = settings_rows()
    assert len(rows) > 300
    keys = [tuple(row.values())[:5] for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        assert list(row) == ["dataset", "loss", "noise", "rate", "parameter", "value", "source"]
        assert row["loss"] in LOSSES
        assert row["noise"] in ("", *NOISES)
        assert row["parameter"] in params_of(row["loss"]) | TRAINING, row
        assert row["source"]
        # A rate is looked up as it is written.
        assert not row["rate"] or (row["noise"] and row["rate"] == f"{float(row['rate']):g}")
        settings = published_settings(*(row[n] for n in ("dataset", "loss", "noise")), rate=-1.0)
        make_loss_of = {n: v for n, v in settings.items() if n not in TRAINING}
        assert loss_params(row["loss"], make_loss_of)  # in range


def test_settings_follow_the_noise_where_their_authors_did() -> None:
    assert published_settings("cifar10", "js", "sym", 0.6) == {"pi": 0.9}
    assert published_settings("cifar10", "js", "asym", 0.3) == {"pi": 0.3}
    eps = published_settings("cifar10", "eps_softmax_mae", "asym", 0.4)
    assert eps == {"alpha": 0.02, "beta": 5.0, "m": 1e3}
    assert published_settings("cifar100", "ce_lc_eps", "sym", 0.2) == {"delta": 0.5}
    eps = published_settings("cifar100", "eps_softmax_mae", "idn-uniform", 0.4)
    assert eps == {"alpha": 0.03, "beta": 1.0, "m": 1e4}
    # GJS draws from all classes, and calls that symmetric.
    assert published_settings("cifar10", "gjs", "sym-all", 0.4) == {"pi": 0.9}
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


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["quick", "laptop", "paper"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "mnist"])
def test_all_published_losses_make_a_study(preset: str, dataset: str) -> None:
    said: list[str] = []
    asked = (preset, [ALL_PUBLISHED], ["none", "sym", "asym"], [0.4], 1)
    cells = make_grid(*asked, dataset=dataset, say=said.append)
    losses = {cell.loss for cell in cells}
    assert {"ce", "gce", "nce_rce", "agce", "anl_ce", "ldr_kl", "sr"} <= losses
    assert {*PRESETS["paper"].losses} <= losses
    assert ("gjs" in losses) == (dataset != "mnist")
    assert len(cells) == 3 * len(losses)
    assert {cell.variant for cell in cells} == {""}
    (line,) = said
    assert line.startswith("forward_est is left out under none noise: warm_start is 0.0; accepted")
    warm = make_grid(*asked, dataset=dataset, warm_start=2.0, say=said.append)
    assert {cell.loss for cell in warm} == losses | {"forward_est"}
    assert said == [line]


def test_a_loss_by_name_stands_beside_the_published_ones_once() -> None:
    asked = [ALL_PUBLISHED, "ce", "nnce"]
    cells = make_grid("laptop", asked, ["sym"], [0.4], 1, say=lambda line: None)
    names = [cell.loss for cell in cells]
    assert names[-2:] == ["ce", "nnce"]
    assert names.count("ce") == 1
    with pytest.raises(BadInput, match=r"warm_start is 0\.0"):  # asked for, so not left out
        make_grid("laptop", [ALL_PUBLISHED, "forward_est"], ["sym"], [0.4], 1)
    with pytest.raises(BadInput, match="lr is -1"):  # no loss is at fault
        make_grid("laptop", [ALL_PUBLISHED], ["sym"], [0.4], 1, lr=-1.0)


def test_own_labels_have_no_known_matrix(own: Dataset) -> None:
    said: list[str] = []
    cells = make_grid("quick", [ALL_PUBLISHED], seeds=1, dataset=own, say=said.append)
    assert {"gjs", "elr", "forward_est"} <= {cell.loss for cell in cells}
    assert said == [
        "forward is left out under none noise: the noise of own labels has no known matrix, which "
        "it corrects by"
    ]
    cells = make_grid("quick", [ALL_PUBLISHED], rates=[0.2], seeds=1, dataset=own)
    assert "forward" in {cell.loss for cell in cells}


def test_the_command_line_takes_all_published(tmp_path: Path) -> None:
    few = ["--noise", "none", "--seeds", "1", "--train-size", "5", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["study", "--losses", ALL_PUBLISHED, *few, "--lr=-1"])
    assert "lr is -1.0" in str(done.exception or done.output)


# ------------------------------------------------------------- data sets with real noise


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)
    return load_data((images, np.arange(40) % 4), say=lambda line: None)


def test_a_published_data_set_has_its_authors_protocol(own: Dataset) -> None:
    def chosen(name: str, **given: Any) -> Config:
        return make_config("paper", dataset=dataclasses.replace(own, name=name), **given)

    web = chosen("ilsvrc12_val50", loss="nce_agce", epochs=250)
    assert web.params == {"alpha": 50.0, "beta": 0.1, "a": 2.5, "q": 3.0}
    assert (web.network, web.batch_size, web.lr, web.nesterov, web.schedule) == (
        *("torchvision:resnet50", 512, 0.4, True, "x0.97"),
    )
    assert (web.noise, web.clip, web.weight_decay, web.colour) == ("none", 5.0, 3e-5, 0.4)
    assert web.variant == "image_size=12"
    anl = chosen("webvision_mini", loss="anl_ce")
    assert (anl.l1, anl.weight_decay) == (5e-6, 0.0)
    clothing = chosen("clothing1m", loss="jal_ce", epochs=10)
    assert clothing.params == {"alpha": 5.0, "beta": 0.1, "a": 5.0}
    assert (clothing.weights, clothing.crop, clothing.clip) == ("default", "plain", 0.0)
    animals = chosen("animal10n", epochs=100)
    assert (animals.schedule, animals.momentum, animals.crop_size) == ("x0.2@50,75", 0.0, 64)
    food = chosen("food101n", batch_size=64)
    assert "batch_size=64" in food.variant
    for config in (web, anl, clothing, animals, food):
        assert Config.read(config.to_json()) == config
    assert chosen("photos").network == "cnn4"
    assert make_config("quick", dataset=dataclasses.replace(own, name="clothing1m")).lr == 0.05


# ------------------------------------------------------------------- labels that people gave


def test_cifar100_has_labels_of_people_too(tmp_path: Path) -> None:
    clean, given = np.arange(100), (np.arange(100) + 7) % 100
    content = {"clean_label": clean, "noisy_label": given, "clean_coarse_label": clean // 5}
    torch.save(content, tmp_path / "CIFAR-100_human.pt")
    assert np.array_equal(human_labels("noisy", clean, tmp_path), given)
    with pytest.raises(BadInput, match="CIFAR-100's training images in their order"):
        human_labels("noisy", clean[::-1].copy(), tmp_path)
    for preset in ("quick", "paper"):
        config = make_config(preset, dataset="cifar100", noise="human")
        assert (config.map, config.rate) == ("noisy", 0.0)
        assert Config.read(config.to_json()) == config
    assert make_config("laptop", noise="human").map == "worse"
    for dataset, other in (("cifar100", "worse"), ("cifar10", "noisy")):
        with pytest.raises(BadInput, match=f"map is '{other}'; accepted: "):
            make_config("laptop", dataset=dataset, noise="human", map=other)
    (command,) = study_commands(make_grid("paper", ["ce"], ["human"], seeds=1, dataset="cifar100"))
    assert "--map" not in command


# ----------------------------------------------------------------------- schedules and crops


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
        train(
            make_config(**small, nesterov=nesterov),
            listener=Listener(on_epoch=rows.append, on_message=ignore),
        )
        losses.append(rows[0]["train_loss"])
    assert losses[0] != losses[1]
