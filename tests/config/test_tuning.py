"""What is tuned: as many configurations for each loss, on seeds that judge nothing."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

import pytest

from apl.config.config import Config, make_config
from apl.config.grid import study_commands
from apl.config.presets import PRESETS
from apl.config.tuning import FIRST_SEED, TunedGrid, Tuning, part_of, setting_key
from apl.errors import BadInput


def grid(*tune: str, seeds: int = 2, losses: tuple[str, ...] = ("ce", "gce"), **rest: Any) -> Any:
    tuning = Tuning.of(tune, 3)
    given: dict[str, Any] = {"noises": ["none", "sym"], "rates": [0.2, 0.4], **rest}
    return TunedGrid.of(tuning, "quick", list(losses), seeds=seeds, **given)


def test_every_loss_and_setting_is_tried_with_each_configuration_on_each_tuning_seed() -> None:
    made = grid("lr=.005,.02", "warm_start=0,3").to_tune()
    assert len(made) == len({cell.name for cell in made}) == 2 * 3 * 4 * 3
    assert {cell.seed for cell in made} == {FIRST_SEED, FIRST_SEED + 1, FIRST_SEED + 2}
    tried: dict[str, set[tuple[float, float]]] = {}
    for cell in made:
        tried.setdefault(setting_key(cell), set()).add((cell.lr, cell.warm_start))
        assert cell.select == "noisy"
        assert cell.tuned is not None
        assert cell.tuned["values"] == {"lr": cell.lr, "warm_start": cell.warm_start}
    assert len(tried) == 2 * 3
    assert {frozenset(each) for each in tried.values()} == {
        frozenset({(0.005, 0.0), (0.005, 3.0), (0.02, 0.0), (0.02, 3.0)})
    }


def test_what_was_chosen_is_judged_on_seeds_of_its_own() -> None:
    made = grid("lr=.005,.02")
    chosen = {made.key(cell): {"values": {"lr": 0.02}, "held_out": 0.5} for cell in made.base[:2]}
    cells = made.to_judge(chosen)
    assert [cell.seed for cell in cells] == [0, 0, 1, 1]
    assert {cell.lr for cell in cells} == {0.02}
    assert all(cell.tuned is not None and cell.tuned["held_out"] == 0.5 for cell in cells)
    assert {part_of(cell) for cell in cells} == {"evaluation"}
    assert not {cell.seed for cell in cells} & {cell.seed for cell in made.to_tune()}
    assert len(made.expected) == len(made.to_tune()) + len(made.base) * 2


def test_a_name_says_what_was_tuned_whatever_the_preset_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = make_config("quick").lr
    tune = f"lr={usual},0.3"
    before = [cell.name for cell in grid(tune).to_tune()]
    assert before[0] == f"ce_clean_seed1000_lr={usual:g},select=noisy"
    later = dataclasses.replace(PRESETS["quick"], settings={**PRESETS["quick"].settings, "lr": 0.3})
    monkeypatch.setitem(PRESETS, "quick", later)
    assert [cell.name for cell in grid(tune).to_tune()] == before


def test_the_record_of_a_run_says_what_was_chosen_and_from_what() -> None:
    made = grid("lr=.005,.02", "gce.q=.5,.7", losses=("gce",))
    values = {"lr": 0.02, "q": 0.5}
    (cell, *_) = made.to_judge({made.key(made.base[0]): {"values": values, "edge": ["lr"]}})
    assert (cell.lr, cell.params["q"]) == (0.02, 0.5)
    said = cell.naming()
    assert said["tuned"] == {
        "values": values,
        "over": {"lr": [0.005, 0.02], "gce.q": [0.5, 0.7]},
        "seeds": 3,
        "part": "evaluation",
        "edge": ["lr"],
    }
    read = Config.read(cell.to_json(), said["run"], said["variant"], said["tuned"])
    assert (read, read.name, read.tuned) == (cell, cell.name, cell.tuned)
    assert "tuned" not in make_config().naming()


@pytest.mark.parametrize(
    ("tune", "losses", "message"),
    [
        (["lr"], ("ce",), "tune is 'lr'; accepted: NAME=X,X"),
        (["lr="], ("ce",), "tune is 'lr='"),
        (["lr=a"], ("ce",), "tune is 'lr=a'"),
        (["lr=.1,.1"], ("ce",), "each once"),
        (["lr=.1", "lr=.2"], ("ce",), "lr once"),
        (["seed=1,2"], ("ce",), "accepted: NAME=X"),
        (["epochs=1.5"], ("ce",), "tune is"),
        (["gamma=1,2"], ("ce",), "which none of ce takes"),
        (["gce.q=.5,.7"], ("ce", "gce"), "gce would be tried with 2 configurations and ce with 1"),
        (["mae.q=.5,.7"], ("mae",), "which none of mae takes"),
        (["lr=-1,.1"], ("ce",), "lr is -1"),
        (["lr=.1,-1"], ("ce",), "lr is -1"),
    ],
)
def test_what_can_not_be_tuned(tune: list[str], losses: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        grid(*tune, losses=losses).to_tune()


def test_a_setting_is_given_or_tuned_and_seeds_are_few() -> None:
    with pytest.raises(BadInput, match="lr is given and tuned"):
        grid("lr=.1,.2", lr=0.3)
    with pytest.raises(BadInput, match="q of gce is given and tuned: give it once"):
        grid("q=.5,.7", losses=("gce(q=0.9)",))
    with pytest.raises(BadInput, match="seeds is 1001"):
        grid("lr=.1,.2", seeds=1001)
    with pytest.raises(BadInput, match="tune_seeds is 0"):
        Tuning.of(["lr=.1"], 0)


def test_the_command_of_a_tuned_study_is_told() -> None:
    made = grid("lr=.005,.02", "weight_decay=0,.001", seeds=5, epochs=4)
    (command,) = study_commands(made.expected)
    words = shlex.split(command)
    assert words[:4] == ["apl", "study", "--preset", "quick"]
    at = [k for k, word in enumerate(words) if word == "--tune"]
    assert [words[k + 1] for k in at] == ["lr=0.005,0.02", "weight_decay=0,0.001"]
    for flag, value in (("--tune-seeds", "3"), ("--seeds", "5"), ("--epochs", "4")):
        assert words[words.index(flag) + 1] == value
    assert "--lr" not in words
    assert "--weight-decay" not in words
