"""Who listens to a training: one value, several joined, and the keywords of 0.2."""

from __future__ import annotations

from pathlib import Path

import pytest

from apl.config.config import Config, make_config
from apl.detect.monitor import LabelMonitor
from apl.detect.search import find_mislabelled
from apl.errors import Interrupted
from apl.training.listener import Listener, ignore
from apl.training.train import train


def small(epochs: int = 2) -> Config:
    return make_config(loss="ce", rate=0.4, epochs=epochs, train_size=200)


def test_joined_listeners_all_hear_in_their_order() -> None:
    heard: list[str] = []
    one = Listener(on_epoch=lambda row: heard.append("one"), on_message=heard.append)
    other = Listener(on_epoch=lambda row: heard.append("other"))
    train(small(), listener=one + other + Listener())
    assert heard == ["one", "other", "one", "other"]
    (one + one).on_message("twice")
    assert heard[4:] == ["twice", "twice"]


def test_a_warning_is_printed_once_where_nobody_hears_it(capsys: pytest.CaptureFixture) -> None:
    heard: list[str] = []
    (Listener() + Listener()).on_message("printed")
    assert capsys.readouterr().out == "printed\n"
    (Listener() + Listener(on_message=heard.append) + Listener()).on_message("heard")
    assert (heard, capsys.readouterr().out) == (["heard"], "")


def test_any_of_them_stops_the_training(tmp_path: Path) -> None:
    quiet, stopping = Listener(on_message=ignore), Listener(should_stop=lambda: True)
    for listener in (quiet + stopping, stopping + quiet):
        with pytest.raises(Interrupted):
            train(small(), listener=listener)
    train(small(), listener=quiet + quiet)


def test_two_states_of_one_name_are_refused() -> None:
    monitors = [LabelMonitor(200, 10), LabelMonitor(200, 10)]
    with pytest.raises(ValueError, match="two listeners have a state 'monitor'"):
        monitors[0].listener + monitors[1].listener


@pytest.mark.slow
def test_the_keywords_of_0_2_still_listen(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    said: list[str] = []
    monitor, asked = LabelMonitor(200, 10), iter([False] * 3)
    with (
        pytest.warns(DeprecationWarning, match=r"listener=Listener\(\.\.\.\)"),
        pytest.raises(Interrupted),
    ):
        train(small(), tmp_path, monitor=monitor, should_stop=lambda: next(asked, True))
    again = LabelMonitor(200, 10)
    with pytest.warns(DeprecationWarning, match="since 0.3"):
        train(small(), tmp_path, monitor=again, on_epoch=rows.append, say=said.append)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (again.evidence.visits == 2).all()  # the steps before the stop included
    with pytest.warns(DeprecationWarning, match="since 0.3"):
        find_mislabelled("digits", epochs=1, on_epoch=rows.append, say=said.append)
    assert [row["epoch"] for row in rows] == [1, 2, 1]


def test_another_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        train(small(), epochs=3)
