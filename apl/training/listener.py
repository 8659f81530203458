"""Who listens to a training, and may stop it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


def ignore(*_: object) -> None:
    """Hear it and do nothing."""


def never() -> bool:
    """No, there is no reason to stop."""
    return False


class HasState(Protocol):
    """What can be written to a checkpoint and go on from it, as torch's modules can."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """What it has gathered."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> object:
        """Go on from what it had gathered."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What is called while a network is trained; what is left out does nothing.

    `one + other` is both: each is called, and either may stop the training.

    Attributes:
        on_step: Called after each step, with which samples [B], their logits [B, K] and given
            labels [B].
        on_look: Called after each epoch, with how to ask the network as it is then, in evaluation
            mode: uint8 images [N, H, W, C], or rows [N, F], to logits [N, K].
        on_epoch: Called after that, with the epoch's row of the history.
        on_message: Called with each warning, which is printed where nobody listens.
        should_stop: Asked after each step, and True writes a checkpoint and raises Interrupted.
        states: By name what has gathered something and goes into checkpoints.
    """

    on_step: Callable[[Tensor, Tensor, Tensor], object] = ignore
    on_look: Callable[[Callable[[Tensor], Tensor]], object] = ignore
    on_epoch: Callable[[dict[str, float]], object] = ignore
    on_message: Callable[[str], None] = print
    should_stop: Callable[[], bool] = never
    states: Mapping[str, HasState] = field(default_factory=dict)

    def __add__(self, other: Listener) -> Listener:
        """Both of them, this one first; ValueError where two states have one name."""
        twice = self.states.keys() & other.states.keys()
        if twice:
            raise ValueError(f"two listeners have a state {min(twice)!r}: name them apart")
        return Listener(
            on_step=_both(self.on_step, other.on_step, ignore),
            on_look=_both(self.on_look, other.on_look, ignore),
            on_epoch=_both(self.on_epoch, other.on_epoch, ignore),
            on_message=_both(self.on_message, other.on_message, print),
            should_stop=lambda: self.should_stop() or other.should_stop(),
            states={**self.states, **other.states},
        )


def _both(
    one: Callable[..., Any], other: Callable[..., Any], unsaid: Callable[..., Any]
) -> Callable[..., Any]:
    """A function that calls both; one that was left out is not called beside the other."""
    if one is unsaid or other is unsaid:
        return other if one is unsaid else one

    def both(*told: Any) -> None:
        one(*told)
        other(*told)

    return both


def with_keywords(listener: Listener, keywords: dict[str, Any]) -> Listener:
    """The listener, and what the keywords of 0.2 (on_epoch, say, should_stop, monitor) add to it,
    which are taken out of the keywords; they go in 1.0."""
    names = {"on_epoch": "on_epoch", "say": "on_message", "should_stop": "should_stop"}
    said = {name: keywords.pop(old) for old, name in names.items() if old in keywords}
    monitor = keywords.pop("monitor", None)
    if monitor is not None:
        said |= {"on_step": monitor.update, "states": {"monitor": monitor}}
    if not said:
        return listener
    told = (
        "on_epoch, say, should_stop and monitor are given as one listener=Listener(...) since "
        "0.3; these keywords go in 1.0"
    )
    warnings.warn(told, DeprecationWarning, stacklevel=3)
    return listener + Listener(**said)
