"""What must hold of the Triton kernels wherever they run.

`test_kernels.py` runs this file in a process of its own under triton's interpreter (the choice is
made when triton is imported, and `test_kernels_static.py` needs the compiler);
`test_kernels_gpu.py` runs it on a GPU.  Everything is compared with the float64 reference.
"""

import re
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_times import LOSSES, Case, compare
from quick_interpreter import quicken

from apl import linear_loss, make_loss
from apl.kernels import dispatch
from apl.kernels.bases import BASES, Term
from apl.kernels.options import DEFAULTS, REDUCTIONS, LossOptions
from apl.kernels.reference import reference_loss
from apl.kernels.triton_loss import DEVICE, LONGEST_ROW, correct_, loss_and_grad, plan

ON = "cuda" if torch.cuda.is_available() else "cpu"
if dispatch.interpreted():
    quicken()


def term(base, weight=1.0, form="at"):
    return Term(base, weight, form, tuple(BASES[base].params.values()))


PAPER = ("ce", "fl", "mae", "rce", "gce")  # every way to sum a term; at every size
LATER = [base for base in BASES if base not in (*PAPER, "one", "sq", "entropy")]
SINGLE, LATER_SINGLE = (
    [(term(base, 1.0, form),) for base in bases for form in ("at", "norm")]
    for bases in (PAPER, LATER)
)
ANL_FL = (term("fl", 5.0, "norm"), term("one", 5.0), term("negfl", -5.0, "norm"))
# Of each way to sum a term: what is that sum, alone and beside others.
SUMMED = {
    "sum_gce": (term("gce", 1.0, "sum"),),
    "sum_sq": (term("sq", 1.0, "sum"),),
    "sum_entropy": (term("entropy", 1.0, "sum"),),
    "ls": (term("ce", 0.9), term("ce", 0.01, "sum")),
    "boot_soft": (term("ce", 0.95), term("entropy", 0.05, "sum")),
    "jal_fl": (term("fl", 1.0, "norm"), term("sq", 0.1, "sum"), term("mae", 3.0)),
}
EVERYTHING = tuple(
    term(base, 0.5 + i, form) for i, base in enumerate(PAPER) for form in ("at", "norm")
)
OF_LATER = tuple(
    term(base, 0.5 + i, form) for i, base in enumerate(LATER) for form in ("at", "norm")
)
NCE_RCE = (term("ce", 1.0, "norm"), term("rce"))
NAMES, LATER_NAMES = (
    [f"{'n' * (t.form == 'norm')}{t.base}" for (t,) in single] for single in (SINGLE, LATER_SINGLE)
)
SOME, SOME_NAME = [*SINGLE, EVERYTHING, *SUMMED.values()], [*NAMES, "everything", *SUMMED]
EVERY, EVERY_NAME = [*SOME, *LATER_SINGLE, ANL_FL], [*SOME_NAME, *LATER_NAMES, "anl_fl"]
# Rows that a block does not hold cost the interpreter a second each: what is joined over blocks is
# the same for every base, so there the sums that have every way to join stand for all.
LONG = LONGEST_ROW + 3
JOINED = {"everything": EVERYTHING, "jal_fl": SUMMED["jal_fl"], "anl_fl": ANL_FL}
SHORT_AND_LONG = [
    *(
        pytest.param(terms, 10, id=f"{name}-10")
        for terms, name in zip(EVERY, EVERY_NAME, strict=True)
    ),
    *(pytest.param(JOINED[name], LONG, id=f"{name}-long") for name in ("everything", "jal_fl")),
]
SOME_AND_LONG = [
    *(
        pytest.param(terms, 10, id=f"{name}-10")
        for terms, name in zip(SOME, SOME_NAME, strict=True)
    ),
    *(pytest.param(JOINED[name], LONG, id=f"{name}-long") for name in ("everything", "jal_fl")),
]


def random_case(n, k, *, inner=(), dtype=torch.float32, scale=3.0, ignored=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, k, *inner, generator=generator) * scale).to(dtype)
    targets = torch.randint(k, (n, *inner), generator=generator)
    if ignored:
        targets.view(-1)[::3] = -100
    return logits.to(ON), targets.to(ON)


def both(logits, targets, terms, *, upstream=None, **options):
    """Value and gradient from the kernels, and in float64 from the reference."""
    results = []
    for backend, dtype in (("triton", logits.dtype), ("reference", torch.float64)):
        leaf = logits.detach().to(dtype).requires_grad_()
        value = dispatch.loss(leaf, targets, terms, LossOptions(**options), backend=backend)
        value.backward(torch.ones_like(value) if upstream is None else upstream.to(value))
        results += [value.detach().double(), leaf.grad]
    assert results[1].dtype == logits.dtype
    return results[0], results[1].double(), results[2], results[3]


def check(logits, targets, terms, *, tolerance=2e-5, rounding=1e-12, **options):
    value, grad, expected, expected_grad = both(logits, targets, terms, **options)
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance)
    size = expected_grad.abs().max().item()
    torch.testing.assert_close(
        grad, expected_grad, rtol=tolerance, atol=tolerance * size + rounding
    )


def test_every_base_has_a_device_function():
    assert list(DEVICE) == list(BASES)


@pytest.mark.parametrize("base", BASES)
def test_affine_form_is_phi(base):
    if DEVICE[base].affine is None:
        return
    params = tuple(BASES[base].params.values())
    a, b, c, q = DEVICE[base].affine(*params)
    log_p = -torch.rand(50, dtype=torch.float64) * 9
    torch.testing.assert_close(
        a + b * log_p + c * (q * log_p).exp(), BASES[base].phi(log_p, *params)
    )


# What a size decides is how a row is laid out and joined, for every base alike: a sum that has
# every way to join goes through all sizes (10 is in the next test), the others through two.
@pytest.mark.parametrize("k", [2, 3, 100, 1000, 1024, 1025, 5000])
def test_losses_of_any_number_of_classes(k):
    for terms in (EVERYTHING, *((*JOINED.values(), OF_LATER) if k in (3, 1000) else ())):
        check(*random_case(7 if k <= 100 else 2, k), terms)


@pytest.mark.parametrize("terms", EVERY, ids=EVERY_NAME)
def test_losses(terms):
    check(*random_case(7, 10), terms)


# Each with values on either side of where one form of it takes over from another.
PARAMS = {
    "agce": [(1e-5, 0.5), (4.0, 0.2), (1.8, 3.0)],
    "aul": [(3.0, 0.1), (1.001, 2.0)],
    "ael": [(0.1,)],
    "tce": [(1,), (50,)],
    "phuber_ce": [(1.01,), (50.0,)],
    "phuber_gce": [(2.0, 0.1)],
    "js": [(1e-3,), (0.1,), (0.999,)],
    "negce": [(1e-2,)],
    "negfl": [(1e-2, 2.0)],
}


@pytest.mark.parametrize("base", LATER)
def test_device_functions_at_any_parameters(base):
    logits, targets = random_case(40, 12, scale=8.0)
    for params in PARAMS[base]:
        terms = (Term(base, 0.7, "at", params), Term(base, -0.3, "norm", params))
        check(logits, targets, terms, reduction="none", rounding=1e-7)


def test_a_base_that_is_there_twice_has_parameters_of_its_own_each_time():
    terms = (Term("gce", 1.0, "at", (0.3,)), Term("gce", 2.0, "at", (0.9,)))
    check(*random_case(7, 12), (*terms, Term("gce", 0.5, "norm", (0.5,))))


def test_anl_with_weights_scales_and_ignored_rows():
    logits, targets = random_case(9, 12, ignored=True)
    weight = torch.rand(12, device=ON) + 0.1
    for reduction in REDUCTIONS:
        upstream = torch.rand(9 if reduction == "none" else (), device=ON)
        options = {"reduction": reduction, "weight": weight, "upstream": upstream}
        check(logits, targets, ANL_FL, **options)
        check(logits, targets, ANL_FL, label_smoothing=0.1, **options)


# Every base and form within a sum, each kind of sum alone, and the two that stop at other passes.
LONG_ROWS = {
    **JOINED,
    "later": OF_LATER,
    **{name: SUMMED[name] for name in ("sum_gce", "sum_sq", "sum_entropy")},
    "ce": (term("ce"),),
    "nfl": (term("fl", 1.0, "norm"),),
}


@pytest.mark.parametrize("terms", LONG_ROWS.values(), ids=LONG_ROWS)
def test_rows_longer_than_a_block(terms):
    check(*random_case(2, LONG, scale=4.0), terms)


@pytest.mark.parametrize("k", [100, 3 * LONGEST_ROW])
def test_a_common_offset_changes_nothing(k):
    logits, targets = random_case(2, k, scale=2.0)
    logits = (logits * 1024).round() / 1024 + 8192.0  # exact in float32
    check(logits, targets, EVERYTHING)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.integers(1, 12),
    st.integers(2, 70),
    st.lists(
        st.tuples(
            st.sampled_from([*PAPER, *LATER]),
            st.floats(0.1, 3),
            st.sampled_from(["at", "norm", "sum"]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(REDUCTIONS),
    st.booleans(),
    st.integers(0, 1000),
)
def test_random_sums(n, k, terms, reduction, ignored, seed):
    logits, targets = random_case(n, k, ignored=ignored and n > 1, seed=seed)
    # A sample may be one row with p_y near 1, whose gradient is all rounding of 1 - p_y.
    check(logits, targets, tuple(term(*t) for t in terms), reduction=reduction, rounding=3e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_parameters_are_run_time_values(reduction):
    terms = (
        Term("fl", 0.3, "norm", (2.0,)),
        Term("fl", 0.3, "at", (0.0,)),
        Term("gce", 1.5, "norm", (1.0,)),
        Term("gce", 0.5, "norm", (0.1,)),
        Term("rce", 1.0, "at", (-4.0,)),
    )
    logits, targets = random_case(9, 12, ignored=True)
    weight = torch.rand(12, device=ON) + 0.1
    upstream = torch.rand(9 if reduction == "none" else (), device=ON)
    check(logits, targets, terms, reduction=reduction, weight=weight, upstream=upstream)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [10, 1000])
def test_half_types(dtype, k):
    logits, targets = random_case(33 if k == 10 else 3, k, dtype=dtype)
    value, grad, expected, expected_grad = both(logits, targets, NCE_RCE, reduction="sum")
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value, expected, rtol=eps, atol=eps)
    torch.testing.assert_close(grad, expected_grad, rtol=eps, atol=eps * 1e-2)


LAYOUTS = {
    "strided rows": lambda z: z.repeat_interleave(2, 0)[::2],
    "strided classes": lambda z: z.repeat_interleave(3, 1)[:, ::3],
    "transposed": lambda z: z.transpose(0, 1).contiguous().transpose(0, 1),
    "offset": lambda z: torch.cat([z[:1], z])[1:],
    "expanded": lambda z: z[:1].expand_as(z),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("k", [10, 96])
def test_strides(layout, k):
    logits, targets = random_case(19, k)
    check(LAYOUTS[layout](logits), targets, NCE_RCE)


@pytest.mark.parametrize(
    ("inner", "reduction", "channels_last"),
    [
        ((5,), "mean", False),
        ((5,), "none", True),
        ((5,), "sum", True),
        ((4, 6), "mean", True),
        ((4, 6), "none", False),
        ((4, 6), "sum", False),
    ],
)
def test_dimensions_behind_the_classes(inner, reduction, channels_last):
    logits, targets = random_case(3, 7, inner=inner, ignored=True)
    if channels_last:
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    assert logits.flatten(2).data_ptr() == logits.data_ptr()  # no copy on the way in
    check(logits, targets, EVERYTHING, reduction=reduction)


def test_long_rows_by_strides():
    logits, targets = random_case(2, LONGEST_ROW + 5, inner=(2,))
    check(logits, targets, EVERYTHING)


def test_offsets_beyond_32_bits():
    # Not run, as it would need the memory: planned.
    logits = torch.empty(2, 3, 2**30, device="meta")
    targets = torch.empty(2, 2**30, dtype=torch.int64, device="meta")
    assert plan(logits, targets, NCE_RCE, DEFAULTS, None, targets, logits).options["WIDE"]
    small = logits[:, :, :100].contiguous()
    assert not plan(small, targets, NCE_RCE, DEFAULTS, None, targets, small).options["WIDE"]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("k", [10, LONG])
def test_wide_offsets_give_the_same(k, wide):
    logits, targets = random_case(3, k)
    losses = torch.empty(3, 1, device=ON)
    grad = torch.empty_like(logits)
    launch = plan(
        logits[:, :, None], targets[:, None], NCE_RCE, DEFAULTS, None, losses, grad[:, :, None]
    )
    launch._replace(options={**launch.options, "WIDE": wide}).run()
    leaf = logits.double().requires_grad_()
    reference_loss(leaf, targets, NCE_RCE, LossOptions(reduction="sum")).backward()
    torch.testing.assert_close(grad.double(), leaf.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("terms", "k"), SHORT_AND_LONG)
def test_extreme_and_masked_logits_and_a_row_without_any_class(terms, k):
    """Rows of a batch, each with what may go wrong in it: a kernel joins none of them."""
    logits, targets = random_case(13, k)
    logits[0], logits[1] = -1e4, 1e4  # constant rows
    logits[2, targets[2]] = 1e4  # as confident as can be, and right
    logits[3, (targets[3] + 1) % k] = 1e4  # and wrong
    targets[4:12][targets[4:12] == 5] = 6
    logits[4:8, 5] = -torch.inf
    logits[8:12, 5] = torch.finfo(torch.float32).min
    logits[12] = -torch.inf
    if k == LONG:  # two seconds a row: of those with a mask one each, as the last one is
        few = [0, 1, 2, 3, 4, 8, 12]
        logits, targets = logits[few], targets[few]
    last = len(logits) - 1
    value, grad, expected, expected_grad = both(logits, targets, terms, reduction="none")
    assert value.isnan().tolist() == expected.isnan().tolist() == [*[False] * last, True]
    assert grad[last].isnan().any()
    assert value[:4].isfinite().all()  # a sum over the classes asks for the masked ones
    assert expected_grad[:last].isfinite().all()
    gone = logits[:last, 5].isneginf()
    nothing = expected_grad[:last, 5] == 0
    assert not grad[:last, 5][gone & nothing].any()  # nothing, and not little, at a mask
    torch.testing.assert_close(value[:last], expected[:last], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        grad[:last], expected_grad[:last], rtol=1e-4, atol=1e-6 * len(terms) ** 2
    )


@pytest.mark.parametrize(
    "take", [lambda w: w.repeat_interleave(2)[::2], lambda w: w[:1].expand(10)], ids=["::2", "one"]
)
def test_class_weights_of_any_stride(take):
    logits, targets = random_case(9, 10, ignored=True)
    check(logits, targets, NCE_RCE, weight=take(torch.rand(10, device=ON) + 0.1))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["uint8", "int8", "int16", "int32", "int64", "uint16"])
def test_targets_of_every_integer_type(name, reduction):
    logits, targets = random_case(10, 10)  # as many rows as classes: no shape tells a mask
    weight = torch.rand(10, device=ON) + 0.1
    options = LossOptions(weight=weight, reduction=reduction)
    expected = dispatch.loss(logits, targets, NCE_RCE, options, backend="triton")
    narrow = targets.to(getattr(torch, name))
    found = dispatch.loss(logits, narrow, NCE_RCE, options, backend="triton")
    assert torch.equal(found, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_scale_rescues_small_gradients_of_float16(reduction):
    logits, targets = random_case(8, 1000, dtype=torch.float16, scale=8.0)
    scale = torch.tensor(32768.0, device=ON)
    _, grad, _, expected = both(logits, targets, NCE_RCE, reduction=reduction, upstream=scale)
    large = expected.abs() > 1e-6  # of what float16 can say, but not before it is scaled
    assert large.sum() > 1_000
    assert not (grad[large] == 0).any()
    torch.testing.assert_close(grad, expected, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("k", "inner", "dtype"),
    [
        *((10, (), dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
        (300, (5,), torch.bfloat16),
        (LONG, (), torch.float16),
    ],
)
def test_the_bits_do_not_depend_on_the_scale_that_was_expected(k, inner, dtype):
    # Whatever arrived before: 1 the first time, then the last one.  The losses by row have no
    # expectation, their gradient is computed when the scale is there.
    logits, targets = random_case(5 if k == 10 else 2, k, inner=inner, dtype=dtype)
    few = dtype == torch.bfloat16 or k > 10
    for scale in (3.7, 3.7, 1.0) if few else (3.7, 3.7, 1.0, 0.0, 1024.0, 1024.0):
        grads = []
        for reduction in ("sum", "none"):
            leaf = logits.clone().requires_grad_()
            value = dispatch.loss(
                leaf, targets, NCE_RCE, LossOptions(reduction=reduction), backend="triton"
            )
            value.float().backward(torch.full(value.shape, scale, device=ON))
            grads.append(leaf.grad)
        assert torch.equal(grads[0], grads[1])


def test_losses_of_several_scales_at_a_time():
    logits, targets = random_case(4, 10)
    leaf = logits.clone().requires_grad_()
    first = dispatch.loss(leaf, targets, NCE_RCE, backend="triton")
    second = dispatch.loss(2 * leaf, targets, NCE_RCE, backend="triton")
    (second * 5).backward(
        retain_graph=True
    )  # what the next forward expects is 5, not what first did
    (first * 3).backward()
    expected = logits.double().requires_grad_()
    (5 * reference_loss(2 * expected, targets, NCE_RCE)).backward()
    (3 * reference_loss(expected, targets, NCE_RCE)).backward()
    torch.testing.assert_close(leaf.grad.double(), expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("k", [10, 300, LONG])
def test_a_gradient_that_is_right_is_not_touched(k):
    logits, targets = random_case(5, k)
    one, two = (torch.full((), float(number), device=ON) for number in (1, 2))
    rows = (logits[:, :, None], targets[:, None], NCE_RCE, DEFAULTS, None)
    right = loss_and_grad(*rows, True, two)[1]
    grad = torch.full_like(right, 7.0)
    assert correct_(grad, two, two, *rows) == 2
    assert (grad == 7).all()
    assert correct_(grad, one, two, *rows) == 2
    assert torch.equal(grad, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("k", "inner"), [(10, ()), (33, (4, 6)), (LONG, ())])
def test_in_place(k, inner, dtype):
    logits, targets = random_case(3, k, inner=inner, dtype=dtype, ignored=True)
    results = []
    for inplace in (False, True):
        leaf = logits.clone().requires_grad_()
        last = leaf * 1.5
        places = []
        last.register_hook(lambda grad, places=places: places.append(grad.data_ptr()))
        loss = dispatch.loss(last, targets, NCE_RCE, backend="triton", inplace=inplace)
        assert torch.equal(last, leaf * 1.5) is not inplace
        loss.backward()
        results.append((loss.detach(), leaf.grad))
        assert (places == [last.data_ptr()]) is inplace
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_in_place_where_it_would_be_wrong():
    logits, targets = random_case(4, 10)
    refused = (
        (logits.requires_grad_(), {}, "a leaf that requires grad"),
        (logits * 1, {"reduction": "none"}, "reduction 'none'"),
        (logits.half() * 1, {}, "float16"),
        ((logits[:1] * 1).expand(4, 10), {}, "expanded logits"),
    )
    for z, options, said in refused:
        with pytest.raises(ValueError, match=f"inplace=True cannot be with {said}"):
            dispatch.loss(
                z, targets, NCE_RCE, LossOptions(**options), inplace=True, backend="triton"
            )
    loss = dispatch.loss(logits * 1, targets, NCE_RCE, inplace=True, backend="triton")
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="has one backward"):
        loss.backward()
    # An operation that keeps its result for its own backward: torch says so.
    loss = dispatch.loss(logits.sigmoid(), targets, NCE_RCE, inplace=True, backend="triton")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    # Where no gradient is asked for there is none to write.
    with torch.no_grad():
        z = logits * 1
        dispatch.loss(z, targets, NCE_RCE, inplace=True, backend="triton")
    assert torch.equal(z, logits)


def test_a_bad_argument_is_an_error_and_switches_nothing_off():
    logits, targets = random_case(4, 10)
    bad = (
        ({"weight": torch.ones(10, device="meta")}, "weight is on meta, the logits on"),
        ({"weight": torch.ones(9, device=ON)}, "weight must have shape [10], got [9]"),
        ({"weight": torch.ones(10, device=ON, dtype=torch.long)}, "weight must be floating point"),
    )
    for options, said in bad:
        with pytest.raises(ValueError, match=re.escape(said)):
            dispatch.loss(logits, targets, NCE_RCE, LossOptions(**options), backend="triton")
    for wrong, said in (
        (targets.float(), "targets must be class indices [4] of an integer type or soft targets"),
        (targets > 0, "of a floating point type, got torch.bool [4]"),
        (targets.to("meta"), "targets are on meta, the logits on"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            dispatch.loss(logits, wrong, NCE_RCE, backend="triton")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # none gives way to another path
        warnings.filterwarnings("ignore", module="triton")
        check(logits, targets, NCE_RCE)


STRIDES = {"as they are": lambda z: z, **LAYOUTS}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.sampled_from(sorted(STRIDES)),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([torch.int8, torch.uint8, torch.int32, torch.int64]),
    st.sampled_from([None, torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from(REDUCTIONS),
    st.sampled_from([1.0, 0.5, 1024.0]),
    st.booleans(),
    st.sampled_from(EVERY),
    st.integers(0, 1000),
)
def test_any_arguments(layout, dtype, labels, weights, reduction, scale, masked, terms, seed):
    """Strides, types of every argument, scales and masks, together."""
    logits, targets = random_case(6, 12, dtype=dtype, seed=seed)
    if masked:
        logits[:, 3] = -torch.inf
        targets[targets == 3] = 4
    logits = STRIDES[layout](logits)
    weight = None
    if weights is not None:
        generator = torch.Generator().manual_seed(seed)
        weight = (torch.rand(12, generator=generator) + 0.1).to(ON, weights)
    upstream = torch.full((6,) if reduction == "none" else (), scale, device=ON)
    value, grad, expected, expected_grad = both(
        logits, targets.to(labels), terms, reduction=reduction, weight=weight, upstream=upstream
    )
    eps = max(torch.finfo(dtype).eps, 1e-5)
    size = max(expected_grad.abs().max().item(), 1e-3)
    torch.testing.assert_close(value, expected, rtol=2 * eps, atol=2 * eps)
    torch.testing.assert_close(grad, expected_grad, rtol=2 * eps, atol=2 * eps * size)


def soft_case(n, k, *, inner=(), dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.rand(n, k, *inner, generator=generator)
    q *= torch.rand(n, k, *inner, generator=generator) < 0.5  # zeros among them
    return q.to(ON, dtype)


@pytest.mark.parametrize(("terms", "k"), SOME_AND_LONG)
def test_soft_targets(terms, k):
    """Smoothed here, and not in `test_soft_targets_beside_masked_logits`."""
    n = 2 if k == LONG else 3
    logits, targets = random_case(n, k, ignored=True)
    weight = torch.rand(k, device=ON) + 0.1
    options = {"label_smoothing": 0.1, "weight": weight, "tolerance": 5e-5}
    check(logits, soft_case(n, k), terms, **options)
    check(logits, targets, terms, **options)


def test_soft_targets_with_weights_and_no_smoothing():
    logits, weight = random_case(3, 10)[0], torch.rand(10, device=ON) + 0.1
    for terms in JOINED.values():
        check(logits, soft_case(3, 10), terms, weight=weight, tolerance=5e-5)


@pytest.mark.parametrize(("terms", "k"), SOME_AND_LONG)
def test_soft_targets_beside_masked_logits(terms, k):
    n = 2 if k == LONG else 4
    logits, q = random_case(n, k)[0], soft_case(n, k)
    logits[:, 5], q[:, 5] = -torch.inf, 0.0
    q = LAYOUTS["strided rows"](q)  # not those of the logits
    value, grad, expected, expected_grad = both(logits, q, terms, reduction="none")
    assert expected_grad.isfinite().all()
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5 * size)
    size = max(1.0, expected_grad.abs().max().item())
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-5 * size)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    st.sampled_from(sorted(STRIDES)),
    st.sampled_from([(), (2,), (1, 2)]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(REDUCTIONS),
    st.sampled_from([1.0, 1024.0]),
    st.booleans(),
    st.sampled_from(EVERY),
    st.integers(0, 1000),
)
def test_any_soft_targets(
    layout, inner, dtype, soft_dtype, smoothing, reduction, scale, weighted, terms, seed
):
    """Strides and types of the targets, not those of the logits; smoothing, weights and scales."""
    n = 2 if inner else 6  # a sample is then a program of its own
    logits, _ = random_case(n, 12, inner=inner, dtype=dtype, seed=seed)
    q = soft_case(n, 12, inner=inner, dtype=soft_dtype, seed=seed)
    q = STRIDES[layout](q)
    upstream = torch.full((n, *inner) if reduction == "none" else (), scale, device=ON)
    value, grad, expected, expected_grad = both(
        logits,
        q,
        terms,
        reduction=reduction,
        label_smoothing=smoothing,
        weight=torch.rand(12, device=ON) + 0.1 if weighted else None,
        upstream=upstream,
    )
    eps = max(torch.finfo(dtype).eps, 1e-5)
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(value, expected, rtol=2 * eps, atol=2 * eps * size)
    size = max(expected_grad.abs().max().item(), 1e-2 * scale)  # 0 where all is smoothed away
    torch.testing.assert_close(grad, expected_grad, rtol=2 * eps, atol=2 * eps * size)


@pytest.mark.parametrize("terms", [NCE_RCE, SUMMED["jal_fl"]], ids=["nce_rce", "jal_fl"])
def test_torch_compile_of_soft_targets_without_a_graph_break(terms):
    logits, q = random_case(6, 10)[0], soft_case(6, 10)
    backend = "inductor" if ON == "cuda" else "aot_eager"

    def step(z):
        return dispatch.loss(1.5 * z, q, terms, LossOptions(label_smoothing=0.1), backend="triton")

    results = []
    for run in (step, torch.compile(step, fullgraph=True, backend=backend)):
        leaf = logits.clone().requires_grad_()
        value = run(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(("terms", "k"), [(EVERYTHING, 10), (NCE_RCE, LONG)])
def test_nan_stays_in_its_row(terms, k):
    logits, targets = random_case(6, k)
    poisoned = logits.clone()
    poisoned[2, 1], poisoned[4, 0] = torch.nan, torch.inf
    value, grad, _, _ = both(poisoned, targets, terms, reduction="none")
    clean, clean_grad, _, _ = both(logits, targets, terms, reduction="none")
    bad = torch.tensor([False, False, True, False, True, False], device=ON)
    assert value[bad].isnan().all()
    assert grad[bad].isnan().all()
    assert torch.equal(value[~bad], clean[~bad])
    assert torch.equal(grad[~bad], clean_grad[~bad])


def test_nan_of_an_ignored_row_is_ignored():
    logits, targets = random_case(6, 10, ignored=True)
    logits[0] = torch.nan
    check(logits, targets, EVERYTHING)


def test_all_rows_ignored():
    logits, _ = random_case(4, 10)
    targets = torch.full((4,), -100, device=ON)
    value, grad, expected, expected_grad = both(logits, targets, NCE_RCE)
    assert value.isnan()
    assert expected.isnan()
    assert torch.equal(grad, torch.zeros_like(grad))
    assert torch.equal(expected_grad, grad)


def test_no_rows():
    logits, targets = torch.empty(0, 10, device=ON), torch.empty(0, dtype=torch.long, device=ON)
    for reduction in REDUCTIONS:
        value, grad, expected, _ = both(logits, targets, NCE_RCE, reduction=reduction)
        torch.testing.assert_close(value, expected, equal_nan=True)
        assert grad.shape == (0, 10)


def test_a_target_that_is_no_class_gives_nan():
    logits, targets = random_case(3, 10)
    targets[0], targets[1] = 10, -1
    loss = dispatch.loss(logits, targets, NCE_RCE, LossOptions(reduction="none"), backend="triton")
    assert loss.isnan().tolist() == [True, True, False]


def test_ignore_index_among_the_classes():
    logits, targets = random_case(20, 4)
    options = {"ignore_index": 2, "reduction": "mean"}
    value = dispatch.loss(logits, targets, NCE_RCE, LossOptions(**options), backend="triton")
    expected = reference_loss(logits.double(), targets, NCE_RCE, LossOptions(**options))
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_no_gradient_is_computed_unless_needed():
    logits, targets = random_case(5, 10)
    _, grad = loss_and_grad(logits[:, :, None], targets[:, None], NCE_RCE, DEFAULTS, None, False)
    assert grad is None
    with torch.no_grad():
        assert dispatch.loss(logits.requires_grad_(), targets, NCE_RCE, backend="triton").isfinite()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_backward_twice_and_double_backward(reduction):
    logits, targets = random_case(5, 10)
    upstream = torch.rand(5 if reduction == "none" else (), device=ON)
    second = []
    for backend in ("triton", "reference"):
        leaf = logits.clone().requires_grad_()
        value = dispatch.loss(
            leaf, targets, EVERYTHING, LossOptions(reduction=reduction), backend=backend
        )
        (first,) = torch.autograd.grad(value, leaf, upstream, retain_graph=True)
        (again,) = torch.autograd.grad(value, leaf, upstream, retain_graph=True)
        assert torch.equal(first, again)
        (grad,) = torch.autograd.grad(value, leaf, upstream, create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), leaf)[0])
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_torch_compile_without_a_graph_break(reduction):
    logits, targets = random_case(6, 10, ignored=True)
    backend = "inductor" if ON == "cuda" else "aot_eager"

    def step(z):
        return (
            2
            * dispatch.loss(
                1.5 * z, targets, NCE_RCE, LossOptions(reduction=reduction), backend="triton"
            )
        ).sum()

    results = []
    for run in (step, torch.compile(step, fullgraph=True, backend=backend)):
        leaf = logits.clone().requires_grad_()
        value = run(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*results)


def test_torch_func():
    logits, targets = random_case(4, 10)

    def one(z, y):
        return dispatch.loss(z[None], y[None], NCE_RCE, backend="triton")

    rows = torch.func.vmap(torch.func.grad(one))(logits, targets)
    leaf = logits.clone().requires_grad_()
    dispatch.loss(leaf, targets, NCE_RCE, LossOptions(reduction="sum"), backend="triton").backward()
    torch.testing.assert_close(rows, leaf.grad)


def test_autocast_gives_float32():
    logits, targets = random_case(4, 10, dtype=torch.bfloat16)
    logits.requires_grad_()
    with torch.autocast(ON, dtype=torch.bfloat16):
        value = dispatch.loss(logits, targets, NCE_RCE, backend="triton")
    value.backward()
    assert value.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16


def test_benchmark_runs():
    for shape, dtype in (((8, 10), torch.bfloat16), ((4, 33), torch.float32)):
        rows = compare(LOSSES, Case(shape, dtype), ON, seconds=0.0)
        assert {row["path"] for row in rows} >= {"triton", "reference", "F.cross_entropy"}
        assert all(row["ms"] > 0 and row["GB/s"] > 0 for row in rows)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_last_layer_takes_its_chunks(dtype, tolerance, reduction):
    generator = torch.Generator().manual_seed(0)
    layer = [
        torch.randn(*shape, generator=generator).to(ON, dtype).requires_grad_()
        for shape in ((19, 6), (21, 6), (21,))
    ]
    targets = torch.randint(21, (19,), generator=generator).to(ON)
    targets[::4] = -100
    options = {"reduction": reduction, "backend": "triton"}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the Triton loss")  # no other path takes its place
        value = linear_loss(*layer[:2], targets, "nce_rce", layer[2], chunk=5, **options)
    reference = make_loss("nce_rce", 21, reduction, backend="reference")
    expected = reference(torch.nn.functional.linear(*layer), targets)
    found, wanted = (torch.autograd.grad(x.sum() * 3, layer) for x in (value, expected))
    for a, b in zip((value, *found), (expected, *wanted), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
