"""What a fresh process loads before it answers, and that what it lists is what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from conftest import PATIENCE

from apl.cli.app import app
from apl.data.sources import human_labels, load_data
from apl.errors import BadInput
from apl.losses.catalog import LOSSES
from apl.names import DATASETS, HUMAN_LABELS, NETWORKS, NOISES
from apl.noise.instance import ROWS
from apl.noise.matrices import MAPS, MATRICES
from apl.training.networks import make_network

HEAVY = {
    *("torch", "numpy", "pandas", "scipy", "sklearn"),
    *("matplotlib", "triton", "torchvision", "PIL"),
}

WIDE = {"COLUMNS": "300"}

PROBE = """
import contextlib, io, json, os, sys
for words, env in json.load(sys.stdin):
    out, err, before, code = io.StringIO(), io.StringIO(), dict(os.environ), 0
    os.environ.update(env)
    sys.argv = ["apl", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            from apl.cli import main
            main()
        except SystemExit as end:
            code = end.code or 0
    os.environ.clear(), os.environ.update(before)
    print(json.dumps([code, out.getvalue(), err.getvalue(), list(sys.modules)]))
"""


class Answer(NamedTuple):
    """What was answered, and the modules that were loaded by then."""

    code: int
    out: str
    err: str
    loaded: set[str]

    @property
    def heavy(self) -> set[str]:
        return HEAVY & {name.partition(".")[0] for name in self.loaded}


def fresh(folder: Path, program: str, given: str = "") -> str:
    """What a process of its own prints, in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, **WIDE},
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert not any(folder.iterdir())
    return done.stdout


def completing(line: str) -> dict[str, str]:
    """The environment in which bash asks what it may offer at the end of a line."""
    last = str(len(line.split(" ")) - 1)
    return {"_APL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": last}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What `apl LINE` answers to the lines below, and what is offered at their ends: all by one
    process, which has loaded by then no less than one of its own would have."""
    helps = [" ".join([*command, "--help"]) for command in COMMANDS]
    lines = [line for line, _ in LISTED] + BAD + helps
    asked: dict[str, Any] = {line: (line.split(), {}) for line in lines}
    asked |= {line: ([], completing(line)) for line, _ in OFFERED}
    said = fresh(tmp_path_factory.mktemp("answers"), PROBE, json.dumps([*asked.values()]))
    found = (json.loads(line) for line in said.splitlines())
    return {
        line: Answer(*told, set(loaded)) for line, (*told, loaded) in zip(asked, found, strict=True)
    }


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Every command that can be typed, groups of commands and `apl` alone included."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.slow
def test_help_loads_nothing_heavy(answers: dict[str, Answer]) -> None:
    for command in COMMANDS:
        answer = answers[" ".join([*command, "--help"])]
        assert answer.code == 0, answer.err
        assert "Usage: " + " ".join(("apl", *command)) in answer.out
        assert not answer.heavy


def test_the_commands_are_found() -> None:
    assert {(), ("train",), ("study",), ("noise",), ("track", "import")} <= set(COMMANDS)


LISTED = [
    ("losses", "nce_rce"),
    ("losses gce(q=0.9)", "(1 - p_y^q) / q"),
    ("datasets", "cifar10"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "listed"), LISTED)
def test_lists_load_nothing_heavy(command: str, listed: str, answers: dict[str, Answer]) -> None:
    answer = answers[command]
    assert answer.code == 0, answer.err
    assert listed in answer.out
    assert not answer.heavy


OFFERED: list[tuple[str, list[str]]] = [
    ("apl tra", ["train", "track"]),
    ("apl train --loss nce", [name for name in LOSSES if name.startswith("nce")]),
    ("apl train --dataset ", list(DATASETS)),
    ("apl train --network ", list(NETWORKS)),
    ("apl noise --type ", list(NOISES)),
    ("apl study --noise sym,pa", ["sym,pair"]),
    ("apl evaluate run --labels ", ["clean", "noisy"]),
    ("apl train --loss nce+2*ldr", ["nce+2*ldr_kl"]),
    ("apl train --loss 'norm(phuber_c", ["norm(phuber_ce"]),
    (
        "apl train --loss 'ce+nce_agce(a=3,",
        [f"ce+nce_agce(a=3,{p}=" for p in ("alpha", "beta", "q")],
    ),
    ("apl train --loss 'gce(q=", []),
    ("apl study --losses 'gce(q=0.5,scale=1),nce_agc", ["gce(q=0.5,scale=1),nce_agce"]),
    ("apl study --losses ce,all", ["ce,all-published"]),
    ("apl losses bi_t", ["bi_tempered"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "offered"), OFFERED)
def test_completion_loads_nothing_heavy(
    line: str, offered: list[str], answers: dict[str, Answer]
) -> None:
    answer = answers[line]
    assert answer.code == 0, answer.err
    assert answer.out.split() == offered
    assert not answer.heavy


BAD = [
    "train --loss nope",
    "train --rate 2",
    "train --nope 1",
    "noise --type what",
    "study --rates x",
]


@pytest.mark.slow
@pytest.mark.parametrize("line", BAD)
def test_bad_input_loads_nothing_heavy(line: str, answers: dict[str, Answer]) -> None:
    answer = answers[line]
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("apl: ")
    assert answer.err.count("\n") == 1
    assert not answer.heavy


@pytest.mark.slow
def test_make_loss_loads_torch_alone(tmp_path: Path) -> None:
    program = "from apl import make_loss\nimport sys\nprint(*sys.modules, sep='\\n')"
    answer = Answer(0, "", "", set(fresh(tmp_path, program).split("\n")))
    assert "torch" in answer.heavy
    assert not answer.heavy & {"pandas", "scipy", "sklearn", "matplotlib", "torchvision", "PIL"}
    assert "torch._dynamo" not in answer.loaded  # the compiler takes longer to load than torch


# ------------------------------------------------------------------- what is listed is there


@pytest.mark.slow
@pytest.mark.parametrize("command", ["noise", "train"])
def test_help_lists_what_there_is(command: str, answers: dict[str, Answer]) -> None:
    shown = answers[f"{command} --help"].out.replace(" (default)", "")
    assert f" {', '.join(NOISES)} " in shown
    assert f"{', '.join(DATASETS)}; " in shown
    if command == "train":
        assert f"{', '.join(NETWORKS)}, torchvision:NAME" in shown


def test_every_kind_of_noise_has_a_matrix_or_labels(tmp_path: Path) -> None:
    assert sorted([*MATRICES, *ROWS, "human", "file"]) == sorted(NOISES)
    assert NOISES["asym"].names == tuple(MAPS)
    np.save(tmp_path / "given.npy", np.eye(10))
    digits = [str(k) for k in range(10)]
    for kind, matrix in MATRICES.items():
        noise = NOISES[kind]
        given = noise.map or (str(tmp_path / "given.npy") if noise.file else "")
        low, high = (matrix(digits, rate, given) for rate in (0.1, 0.4))
        np.testing.assert_allclose(low.sum(1), 1)
        assert noise.rated == (low != high).any()


def test_every_name_of_human_labels_is_read(tmp_path: Path) -> None:
    assert NOISES["human"].names == tuple(HUMAN_LABELS)
    for name in HUMAN_LABELS:
        with pytest.raises(BadInput, match="CIFAR-10N labels are not there"):
            human_labels(name, np.zeros(3, np.int64), tmp_path)
    with pytest.raises(BadInput, match="unknown human labels"):
        human_labels("nobody", np.zeros(3, np.int64), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_built(name: str) -> None:
    assert list(make_network(name, (32, 32, 3), 10, 64).parameters())


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_a_reader(name: str, tmp_path: Path) -> None:
    source = DATASETS[name]
    if not source.folder:  # it comes with a library
        data = load_data(name, tmp_path, download=False)
        assert data.train.images.shape[1:] == (source.size, source.size, len(source.mean))
        assert data.num_classes == source.num_classes
        return
    with pytest.raises(BadInput, match=f"{name} is not in"):
        load_data(name, tmp_path, download=False)
    (tmp_path / source.folder).mkdir(parents=True)
    with pytest.raises(BadInput, match=f"{name} in .* is damaged or incomplete"):
        load_data(name, tmp_path, download=False)
