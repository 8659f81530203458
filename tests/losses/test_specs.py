"""Losses as they are written: parameters in brackets, in sums, in Python and as options alike."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apl.losses.catalog import (
    LOSSES,
    SUMS,
    Values,
    loss_name,
    loss_params,
    loss_terms,
    params_of,
    parse_loss,
    split_losses,
    write_loss,
)
from apl.losses.linear import linear_loss
from apl.losses.modules import make_loss

LOGITS = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.tensor([0, 3, 9, 1, 1, 5])


def value(spec: str, **params: float) -> torch.Tensor:
    return make_loss(spec, 10, "none", **params)(LOGITS, TARGETS)


@pytest.mark.parametrize(
    ("spec", "plain", "params"),
    [
        ("gce(q=0.9)", "gce", {"q": 0.9}),
        ("gce", "gce", {"q": 0.7}),
        (" GCE ( q = 9e-1 ) ", "gce", {"q": 0.9}),
        ("nce + 2*gce(q=0.9)", "nce + 2*gce", {"q": 0.9}),
        ("norm(gce(q=0.3)) + rce(A=-4)", "norm(gce) + rce", {"q": 0.3, "A": -4.0}),
        ("nce_rce(beta=0.5, A=-4)", "nce_rce", {"alpha": 1.0, "beta": 0.5, "A": -4.0}),
        ("elr(lam=2)", "elr", {"lam": 2.0, "ema": 0.7}),
        ("gce(q=0.9) + gce(q=0.9)", "gce + gce", {"q": 0.9}),
        ("gce(q=0.3) + 2*gce(q=0.9)", "gce + 2*gce", {"q": (0.3, 0.9)}),
        ("gce(q=0.3) + ce + gce", "gce + ce + gce", {"q": (0.3, 0.7)}),
    ],
)
def test_a_loss_with_brackets_is_a_name_and_parameters(
    spec: str, plain: str, params: Values
) -> None:
    assert loss_name(spec) == plain
    assert loss_params(spec, {}) == params
    assert loss_params(plain, params) == params  # and so they are the same loss
    assert loss_name(write_loss(plain, params)) == plain
    assert loss_params(write_loss(plain, params), {}) == params


def test_brackets_and_options_make_the_same_loss() -> None:
    assert torch.equal(value("gce(q=0.9)"), value("gce", q=0.9))
    assert torch.equal(value("gce(q=0.9)", q=0.9), value("gce", q=0.9))
    # An option goes to every part that takes it and has none of its own.
    both = value("gce(q=0.9) + gce + ngce", q=0.3)
    apart = value("gce", q=0.9) + value("gce", q=0.3) + value("ngce", q=0.3)
    torch.testing.assert_close(both, apart)
    mixed = value("gce(q=0.3) + 2*norm(gce(q=0.9)) + rce(A=-4)")
    parts = value("gce", q=0.3) + 2 * value("norm(gce)", q=0.9) + value("rce", A=-4.0)
    torch.testing.assert_close(mixed, parts)
    assert torch.equal(value("bi_tempered(t1=0.5)"), value("bi_tempered", t1=0.5))
    assert make_loss("ELR(lam=2)", 10, num_samples=3).params == {"lam": 2.0, "ema": 0.7}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the Triton loss cannot run:RuntimeWarning")
@pytest.mark.parametrize("backend", ["triton", "eager", "reference"])  # compiled: test_kernels.py
def test_one_parameter_may_differ_between_parts_on_every_path(backend: str) -> None:
    logits = LOGITS.float().requires_grad_()
    found = make_loss("gce(q=0.3) + gce(q=0.9)", 10, backend=backend)(logits, TARGETS)  # type: ignore[arg-type]
    wide = LOGITS.clone().requires_grad_()
    expected = sum(make_loss("gce", 10, q=q)(wide, TARGETS) for q in (0.3, 0.9))
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(found, logits)
    torch.testing.assert_close(
        grad.double(), torch.autograd.grad(expected, wide)[0], rtol=1e-4, atol=1e-7
    )


def test_a_layer_and_its_loss_take_brackets_too() -> None:
    hidden, weight = LOGITS[:, :4], LOGITS[:4].T.contiguous()
    whole = make_loss("nce + 2*gce(q=0.9)", 10)(hidden @ weight.T, TARGETS)
    torch.testing.assert_close(
        linear_loss(hidden, weight, TARGETS, "nce + 2*gce(q=0.9)"), whole, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("spec", "params", "message"),
    [
        ("gce(q=0.9", {}, "the brackets of the loss 'gce(q=0.9' do not close"),
        ("gce(q=0.9))", {}, "do not close"),
        ("gce(q)", {}, "cannot read 'q' in the loss 'gce(q)': brackets hold parameters as NAME=NU"),
        ("gce()", {}, "brackets hold parameters"),
        ("gce(q=0.5 q=0.6)", {}, "cannot read 'q=0.5 q=0.6'"),
        ("gce(q=x)", {}, "cannot read 'q=x'"),
        ("gce(q=0.5,q=0.6)", {}, "sets q twice"),
        ("gce(gamma=1)", {}, "GCE takes no parameter 'gamma'; it takes: q"),
        ("ce + rce(q=0.5)", {}, "RCE in 'ce + rce(q=0.5)' takes no parameter 'q'; it takes: A"),
        ("ce(q=0.5)", {}, "CE takes no parameter 'q'; it takes: none"),
        ("gce(q=-1)", {}, "q must be a number in (0, 1], got -1"),
        ("aul(a=0.5)", {}, "a must be a number > 1"),
        ("ce + nce_mae(alpha=-1)", {}, "alpha must be a number >= 0, got -1"),
        ("gce(q=0.9)", {"q": 0.5}, "q is 0.9 in 'gce(q=0.9)' and 0.5 beside it: give one"),
        ("norm(gce)(q=0.5)", {}, "expected '+'"),
        ("nce_rce(A=-4) + elr(lam=2)", {}, "ELR is no sum of terms and no part of one"),
    ],
)
def test_what_cannot_be_read_says_what_is_accepted(
    spec: str, params: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_loss(spec, 10, num_samples=None, **params)


@pytest.mark.parametrize(
    ("text", "losses"),
    [
        ("ce,gce(q=0.5),gce(q=0.9)", ["ce", "gce(q=0.5)", "gce(q=0.9)"]),
        (
            "sce(alpha=0.1,beta=1), 2*nce + rce(A=-4) ,",
            ["sce(alpha=0.1,beta=1)", "2*nce + rce(A=-4)"],
        ),
        ("ce", ["ce"]),
        ("", []),
        ("gce(q=0.5,ce", ["gce(q=0.5,ce"]),  # which says that its brackets do not close
    ],
)
def test_a_list_of_losses_is_split_outside_brackets(text: str, losses: list[str]) -> None:
    assert split_losses(text) == losses


@st.composite
def losses(draw: st.DrawFn) -> tuple[str, Values]:
    """A loss without brackets, and parameters of it, some with a value for each part."""
    if draw(st.booleans()):
        name = draw(st.sampled_from(list(LOSSES)))
    else:
        summands = draw(st.lists(st.sampled_from([*SUMS, "norm(gce)", "norm( js )"]), min_size=1))
        factors = draw(st.lists(st.sampled_from(["", "2*", "0.5 * ", ".1*"]), min_size=1))
        plus = draw(st.sampled_from(["+", " + "]))
        name = plus.join(f"{factors[n % len(factors)]}{each}" for n, each in enumerate(summands))
    number = st.floats(0.01, 0.99) | st.sampled_from([0.1, 0.25, 1e-05, 1 / 3])
    found: dict[str, float | tuple[float, ...]] = {}
    for param in sorted(params_of(name)):
        many = sum(param in part.loss.params for part in parse_loss(name))
        each = draw(st.lists(number, min_size=many, max_size=many))
        found[param] = each[0] if len(set(each)) == 1 else tuple(each)
    return name, {param: found[param] for param in draw(st.permutations(list(found)))}


@pytest.mark.slow
@given(losses())
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_back(loss: tuple[str, Values]) -> None:
    name, params = loss
    spec = write_loss(name, params)
    assert loss_name(spec) == name
    own = [part.own for part in parse_loss(spec)]
    for param, value in params.items():
        each = [given[param] for given in own if param in given]
        assert each == list(value if isinstance(value, tuple) else [value] * len(each))
        assert len(each) == sum(param in part.loss.params for part in parse_loss(name))


def test_terms_keep_the_parameters_of_their_part() -> None:
    terms = loss_terms("gce(q=0.3) + 2*gce(q=0.9)", 10)
    assert [(term.weight, term.params) for term in terms] == [(1.0, (0.3,)), (2.0, (0.9,))]
    assert len(loss_terms("gce(q=0.3) + 2*gce(q=0.3)", 10)) == 1
