"""What the commands show that train nothing."""

from __future__ import annotations

import pytest

from apl.cli import run
from apl.losses.catalog import LOSSES, PARAMS


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints, without the breaks of its lines."""
    assert run(words) == code
    taken = capsys.readouterr()
    return " ".join((taken.err if code else taken.out).split())


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_shown_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    loss = LOSSES[name]
    text = shown(capsys, "losses", name)
    assert text.startswith(f"{name} ({loss.label}) formula {loss.formula}; p = softmax(z) ")
    assert f"kind {loss.kind}, {'' if loss.tolerant else 'not '}tolerant" in text
    assert f"source {loss.source} " in text
    for param, value in loss.params.items():
        assert f"{param} {value:g}: {PARAMS[param].help}" in text
    assert ("parameters none" in text) == (not loss.params)
    assert text.endswith(f"apl train --loss {name}")


def test_a_sum_is_shown_part_by_part_with_what_is_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = shown(capsys, "losses", "nce + 2*gce(q=0.9) + norm(gce)")
    assert text.startswith("nce + 2*gce(q=0.9) + norm(gce): not tolerant to symmetric noise nce (")
    assert "2 * gce (GCE) formula (1 - p_y^q) / q" in text
    assert "q 0.9 (default 0.7): exponent" in text
    assert "ngce (NGCE)" in text
    assert text.endswith("apl train --loss 'nce + 2*gce(q=0.9) + norm(gce)'")
    assert "nce + mae: tolerant" in shown(capsys, "losses", "nce + mae")
    assert shown(capsys, "losses", "NCE+RCE").startswith("nce_rce (NCE+RCE)")


def test_what_papers_chose_is_shown_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "losses", "nce_rce")
    assert "published cifar100: alpha=10, beta=0.1 (Ma et al. 2020)" in text
    assert "published cifar10 sym 0.6: pi=0.9 (" in shown(capsys, "losses", "js")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("nce_rcx", "unknown loss 'nce_rcx': did you mean 'nce_rce', "),
        ("mine:loss", "'mine:loss' is a function of yours"),
        ("gce(q=7)", "q must be a number in (0, 1], got 7"),
        ("gce(t=7)", "takes no parameter 't'; it takes: q"),
        ("gce +", "cannot read the loss 'gce +'"),
    ],
)
def test_what_is_no_loss_is_told(
    typed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in shown(capsys, "losses", typed, code=2)


def test_an_unknown_loss_shows_the_five_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ("nce_rcx", "zzzz"):
        text = shown(capsys, "train", "--loss", typed, code=2)
        meant = text.partition("did you mean ")[2].partition("?")[0]
        assert len([name for name in LOSSES if f"'{name}'" in meant]) == 5
        assert "`apl losses` lists all" in text
