"""Triton's interpreter in half the time: what it works out again for each operation of a kernel,
though the answer is always the same, is kept.  What a kernel computes is not touched."""

from __future__ import annotations

import dataclasses
import functools
import gc
import types
from collections.abc import Callable
from typing import Any

import triton
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

NEWEST = (3, 8)  # the last release whose interpreter was read for what follows from a type alone

Make = Callable[..., None]


def quicken() -> None:
    """To be called once, in a process that has no other use of triton."""
    gc.freeze()  # or it looks in each of its many objects for what there is to be freed
    gc.set_threshold(100_000)
    if tuple(map(int, triton.__version__.split(".")[:2])) > NEWEST:
        return  # as right, and slower
    interpreter._patch_lang = _patched_once(interpreter._patch_lang)
    interpreter._get_np_dtype = _by_name(interpreter._get_np_dtype)
    core.block_type.__init__ = _block_type(core.block_type.__init__)
    core.tensor.__init__ = _tensor(core.tensor.__init__)
    for name in ("binary_op_type_checking_impl", "broadcast_impl_value"):
        setattr(TritonSemantic, name, _unless_alike(getattr(TritonSemantic, name)))
    # Where it does not debug, it computes whether integers overflow, and then tells nobody.
    builder = interpreter.interpreter_builder
    if not builder.options.debug:
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _patched_once(patch: Callable[..., Any]) -> Callable[..., Any]:
    """A launch, and each call of a function within it, replaces what triton's modules hold, and a
    launch puts it back."""
    stays = types.SimpleNamespace(restore=lambda: None)
    modules: set[str] = set()

    def patched(fn: Any) -> Any:
        if fn.__module__ not in modules:
            patch(fn)
            modules.add(fn.__module__)
        return stays

    return patched


def _by_name(found: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What follows from a type alone, which has a name of its own and, of pointers, no hash."""
    known: dict[str, Any] = {}

    @functools.wraps(found)
    def of(kind: Any) -> Any:
        if kind.name not in known:
            known[kind.name] = found(kind)
        return known[kind.name]

    return of


def _block_type(make: Make) -> Make:
    known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(getattr(size, "value", size) for size in shape))
        if key not in known:
            make(self, element_ty, shape)
            known[key] = vars(self).copy()
        vars(self).update(known[key])

    return init


def _tensor(make: Make) -> Make:
    known: dict[str, dict[str, Any]] = {}

    def init(self: Any, handle: Any, type: Any) -> None:
        if type.name not in known:
            make(self, handle, type)
            known[type.name] = vars(self).copy()
        vars(self).update(known[type.name], handle=handle)

    return init


def _unless_alike(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Two numbers, or blocks of one shape, of float32 are made alike already."""

    def prepared(self: Any, lhs: Any, rhs: Any, *given: Any, **named: Any) -> Any:
        both = lhs.__class__ is rhs.__class__ is core.tensor and lhs.type.name == rhs.type.name
        if both and lhs.dtype is core.float32:
            return lhs, rhs
        return prepare(self, lhs, rhs, *given, **named)

    return prepared
