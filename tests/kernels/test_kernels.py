"""The CPU paths, the choice between paths, and the Triton kernels under triton's interpreter."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from forked import apart, in_clean_process
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apl import make_loss
from apl.kernels import closed_form, dispatch
from apl.kernels.bases import BASES, Term
from apl.kernels.options import REDUCTIONS, LossOptions
from apl.kernels.reference import reference_loss
from apl.losses.catalog import SUMS, loss_terms

CPU = ("eager", "compiled", "reference")


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_kernels_under_the_interpreter():
    pytest.importorskip("triton")
    files = ("kernel_checks", "fallback_checks", "test_masked")
    done = run(
        *("-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-W", "ignore"),
        *(f"tests/kernels/{name}.py" for name in files),
        TRITON_INTERPRET="1",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


# --- The closed form against the reference ---


@pytest.mark.parametrize("base", BASES)
def test_slope_is_the_derivative_of_phi(base):
    entry, params = BASES[base], tuple(BASES[base].params.values())
    log_p = (-torch.rand(100, dtype=torch.float64) * 20).requires_grad_()
    (slope,) = torch.autograd.grad(entry.phi(log_p, *params).sum(), log_p)
    expected = torch.as_tensor(entry.slope(log_p.detach(), *params), dtype=torch.float64)
    torch.testing.assert_close(slope, expected.expand(100))


def both(logits, targets, criterion, reference):
    found = []
    for loss in (criterion, reference):
        leaf = logits.detach().clone().requires_grad_()
        value = loss(leaf, targets)
        value.backward(torch.ones_like(value))
        found.append((value.detach(), leaf.grad))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("spec", SUMS)
@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_every_loss_in_closed_form(spec, k):
    torch.manual_seed(0)
    logits, targets = torch.randn(50, k, dtype=torch.float64) * 4, torch.randint(k, (50,))
    torch.testing.assert_close(
        *both(
            logits,
            targets,
            make_loss(spec, k, backend="eager"),
            make_loss(spec, k, backend="reference"),
        )
    )


TERMS = st.lists(
    st.builds(
        lambda base, weight, form: Term(base, weight, form, tuple(BASES[base].params.values())),
        st.sampled_from(sorted(BASES)),
        st.floats(0.0, 3.0),
        st.sampled_from(["at", "norm", "sum"]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.slow
@settings(deadline=None, derandomize=True)
@given(
    TERMS,
    st.sampled_from(REDUCTIONS),
    st.booleans(),
    st.sampled_from([-100, 1]),
    st.integers(0, 10**6),
)
def test_random_sums_in_closed_form(terms, reduction, weighted, ignore_index, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(12, 6, dtype=torch.float64, generator=generator)
    targets = torch.randint(6, (12,), generator=generator)
    targets[:2] = ignore_index
    options = {
        "weight": torch.rand(6, generator=generator) + 0.1 if weighted else None,
        "ignore_index": ignore_index,
        "reduction": reduction,
    }
    torch.testing.assert_close(
        *both(
            logits,
            targets,
            lambda z, y: dispatch.loss(z, y, terms, LossOptions(**options), backend="eager"),
            lambda z, y: reference_loss(z, y, terms, LossOptions(**options)),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_and_gradgradcheck(backend, reduction):
    torch.manual_seed(0)
    criterion = make_loss("nce_rce + 0.3*nfl + 0.2*ngce + fl", 4, reduction, backend=backend)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, -100, 3])
    assert torch.autograd.gradcheck(lambda z: criterion(z, targets), logits)
    assert torch.autograd.gradgradcheck(lambda z: criterion(z, targets), logits)


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("spec", SUMS)
def test_extreme_logits(spec, backend):
    logits = torch.randn(4, 10)
    targets = torch.arange(4)
    logits[0], logits[1] = -1e4, 1e4
    logits[2, 2] = logits[3, 0] = 1e4
    criterion = make_loss(spec, 10, "none", backend=backend)
    ((value, grad), (expected, expected_grad)) = both(
        logits, targets, criterion, lambda z, y: criterion(z.double(), y).float()
    )
    assert value.isfinite().all()
    assert grad.isfinite().all()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-5)


def test_nan_stays_in_its_row_and_out_of_ignored_ones():
    logits, targets = torch.randn(4, 10), torch.tensor([1, 2, -100, 4])
    logits[1, 0] = logits[2, 0] = torch.nan
    criterion = make_loss("nce_rce+nfl", 10, "none", backend="eager")
    value, grad = both(logits, targets, criterion, criterion)[0]
    assert value.isnan().tolist() == [False, True, False, False]
    assert grad.isnan().any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_as_cross_entropy_where_no_row_counts(backend, reduction, n, ignore_index):
    logits, targets = torch.randn(n, 5), torch.full((n,), ignore_index)
    torch.testing.assert_close(
        *both(
            logits,
            targets,
            make_loss("ce", 5, reduction, backend=backend, ignore_index=ignore_index),
            lambda z, y: F.cross_entropy(z, y, reduction=reduction, ignore_index=ignore_index),
        ),
        equal_nan=True,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_in_float32_arithmetic(dtype):
    logits, targets = torch.randn(20, 30).to(dtype), torch.randint(30, (20,))
    criterion = make_loss("nce_rce", 30, backend="eager")
    (value, grad), (wide, wide_grad) = both(
        logits, targets, criterion, lambda z, y: criterion(z.float(), y)
    )
    assert value.dtype == grad.dtype == dtype
    assert value == wide.to(dtype)
    torch.testing.assert_close(grad, wide_grad)


def test_a_target_that_is_no_class_is_an_error():
    for backend in ("eager", "reference"):
        with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
            make_loss("nce", 3, backend=backend)(torch.randn(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_gradient_can_be_taken_twice(backend):
    logits = torch.randn(5, 4, requires_grad=True)
    value = make_loss("nce_rce", 4, backend=backend)(logits, torch.tensor([0, 1, 2, 3, 0]))
    (first,) = torch.autograd.grad(value, logits, torch.tensor(3.0), retain_graph=True)
    kept = first.clone()
    (again,) = torch.autograd.grad(value, logits, torch.tensor(6.0))
    assert torch.equal(first, kept)
    assert torch.equal(again, 2 * first)


# --- Soft targets and label smoothing ---


def sum_over_labels(logits, targets, terms, *, weight, label_smoothing, reduction):
    """The loss of soft targets [N, K] by its definition, from the losses of single labels."""
    num_classes = logits.shape[1]
    q = (1 - label_smoothing) * targets.double() + label_smoothing / num_classes
    if weight is not None:
        q = q * weight.double()

    # A class that is masked in all rows is nobody's label: the gradient of its loss is no number.
    labels = (~logits.isneginf().all(0)).nonzero()[:, 0]
    rows = logits.repeat_interleave(len(labels), 0)
    asked = reference_loss(rows, labels.repeat(len(logits)), terms, LossOptions(reduction="none"))
    by_label = torch.zeros_like(q).index_copy(1, labels, asked.view(len(logits), -1))
    losses = torch.where(q == 0, 0.0, q * torch.where(q == 0, 0.0, by_label)).sum(1)
    return {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]


@pytest.mark.slow
@settings(deadline=None, derandomize=True)
@example(
    [Term("ce", 1.0, "norm", ())], "eager", "mean", *2 * [torch.float64], 0.0, False, True, 1, 3, 0
)
@given(
    TERMS,
    st.sampled_from(["eager", "reference"]),
    st.sampled_from(REDUCTIONS),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 9),
    st.integers(2, 40),
    st.integers(0, 10**6),
)
def test_any_soft_targets(
    terms, backend, reduction, dtype, soft_dtype, smoothing, weighted, masked, n, k, seed
):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(n, k, generator=generator)).to(dtype)
    q = torch.rand(n, k, generator=generator) * (torch.rand(n, k, generator=generator) < 0.5)
    q = q.to(soft_dtype)
    # Smoothing and sums over the classes would ask for the masked one.
    if masked and smoothing == 0.0 and k > 2 and all(term.form != "sum" for term in terms):
        logits[:, 1], q[:, 1] = -torch.inf, 0.0
    options = {
        "weight": torch.rand(k, generator=generator) + 0.1 if weighted else None,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    (value, grad), (expected, expected_grad) = both(
        logits.double(),
        q,
        lambda z, y: dispatch.loss(
            z.to(dtype), y, terms, LossOptions(**options), backend=backend
        ).double(),
        lambda z, y: sum_over_labels(z, y, terms, **options),
    )
    eps = 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-5
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(value, expected, rtol=eps, atol=eps * size)
    # The labels' gradients cancel: what is left is rounding of the size of the weights.
    size = max(1e-2, sum(term.weight for term in terms), expected_grad.abs().max().item())
    torch.testing.assert_close(grad, expected_grad, rtol=eps, atol=eps * size)


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_smoothed_labels_of_images_with_ignored_pixels(reduction, backend):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 4)
    logits[0, :, 1, 1] = torch.nan
    targets = torch.randint(5, (2, 3, 4))
    targets[0, 1, 1] = -100
    options = {"reduction": reduction, "label_smoothing": 0.2, "weight": torch.rand(5)}
    (value, grad), (expected, expected_grad) = both(
        logits,
        targets,
        make_loss("ce", 5, backend=backend, **options),
        lambda z, y: F.cross_entropy(z.nan_to_num(), y, **options),
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "backend"),
    # Compiled: in a test of its own, below.
    [(inner, backend) for inner in ((), (3, 4)) for backend in ("eager", "reference")],
)
def test_soft_targets_of_any_strides(inner, backend):
    torch.manual_seed(0)
    logits = torch.randn(4, 7, *inner)
    plain = torch.randn(4, 7, *inner).softmax(1)
    strided = torch.rand(4, 7, *inner, 2)[..., 0].copy_(plain)
    criterion = make_loss("nce_rce", 7, "none", backend=backend)
    reference = make_loss("nce_rce", 7, "none", backend="reference")
    assert criterion(logits, plain).shape == (4, *inner)
    torch.testing.assert_close(
        *(both(logits, q, loss, loss)[0] for q, loss in ((strided, criterion), (plain, reference)))
    )


# --- Compiled ---


# Inductor takes seconds for each loss, each layout of the targets, and a mean that is divided
# within: these tests have each of them once.  What else is ours is traced for other compilers.


@pytest.mark.slow
def test_compiled_takes_soft_targets():
    torch.manual_seed(0)
    logits, weight = 3 * torch.randn(90, 40), torch.rand(40)
    logits[:, 3] = -30.0
    soft, hard = torch.randn(90, 40).softmax(1), torch.randint(40, (90,))
    strided = torch.rand(90, 40, 2)[..., 0].copy_(soft)
    hard[::7] = -100
    smoothed = {"weight": weight, "label_smoothing": 0.1}
    for targets, options in (
        (strided, {}),
        (soft, {"weight": weight, "reduction": "sum"}),
        (soft.bfloat16(), {**smoothed, "reduction": "none"}),
        (hard, smoothed),
    ):
        for n in (90, 31):
            criteria = (
                make_loss("nce+0.5*mae", 40, backend=backend, **options)
                for backend in ("compiled", "reference")
            )
            torch.testing.assert_close(*both(logits[:n], targets[:n], *criteria))


@pytest.mark.slow
def test_compiled_is_right_reproducible_and_keeps_its_code_for_new_sizes_weights_and_masks():
    torch.manual_seed(0)
    logits, targets = torch.randn(300, 40) * 3, torch.randint(40, (300,))
    masked = logits.masked_fill(torch.rand(300, 40) < 0.3, -torch.inf)  # some labels among them
    code = torch._dynamo.utils.counters["stats"]
    before = code["unique_graphs"]
    for n, weight, z in ((300, 1.5, logits), (77, 1.5, logits), (300, 2.5, masked)):
        spec = f"{weight}*nfl + gce(q=0.3) + gce(q=0.9)"
        found = [
            both(
                z[:n],
                targets[:n],
                make_loss(spec, 40, "sum", backend="compiled"),
                make_loss(spec, 40, "sum", backend="reference"),
            )
            for _ in range(2)
        ]
        torch.testing.assert_close(*found[0])
        assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert code["unique_graphs"] == before + 1


@pytest.mark.slow
def test_a_surrounding_torch_compile_meets_no_graph_break():
    criterion = make_loss("nce_rce", 10, weight=torch.rand(10))
    logits, targets = torch.randn(9, 10), torch.randint(10, (9,))
    targets[0] = -100

    def step(z, y):
        return 2 * criterion(1.5 * z, y)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(*both(logits, targets, compiled, step))
    soft = torch.randn(9, 10).softmax(1)
    torch.testing.assert_close(*both(logits, soft, compiled, step))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="triton runs there")
def test_a_surrounding_torch_compile_is_told_once_that_another_path_runs(monkeypatch):
    monkeypatch.setattr(dispatch, "_warned", set())
    criterion = make_loss("nce_rce", 10, backend="triton")
    logits, targets = torch.randn(9, 10), torch.randint(10, (9,))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in (criterion, lambda z, y: 2 * criterion(z, y)):
            torch._dynamo.reset()
            torch.compile(step, fullgraph=True, backend="eager")(logits, targets)
    assert ["the Triton loss" in str(each.message) for each in caught] == [True]


@pytest.mark.slow
def test_torch_func_and_autocast():
    logits, targets = torch.randn(4, 10), torch.randint(10, (4,))
    criterion = make_loss("nce_rce", 10)
    per_row = torch.func.vmap(
        torch.func.grad(lambda z, y: criterion(z[None], y[None])), in_dims=(0, 0)
    )(logits, targets)
    torch.testing.assert_close(per_row / 4, both(logits, targets, criterion, criterion)[0][1])
    # Compiled: without a gradient, which is code of its own, of what takes least to compile.
    for name, backend in (("nce_rce", "eager"), ("ce", "compiled"), ("nce_rce", "reference")):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = make_loss(name, 10, backend=backend)(logits.bfloat16(), targets)
        assert value.dtype == torch.float32


def test_dimensions_behind_the_classes():
    logits, targets = torch.randn(2, 5, 3, 4), torch.randint(5, (2, 3, 4))
    for reduction in REDUCTIONS:
        torch.testing.assert_close(
            *both(
                logits,
                targets,
                make_loss("nce_rce", 5, reduction, backend="eager"),
                make_loss("nce_rce", 5, reduction, backend="reference"),
            )
        )


# --- The choice ---


def test_backend_is_checked():
    with pytest.raises(ValueError, match="backend must be one of auto, triton"):
        make_loss("nce", 3, backend="cuda")
    with pytest.raises(ValueError, match="backend must be one of auto, triton"):
        dispatch.loss(torch.randn(1, 3), torch.tensor([0]), [Term("ce")], backend="cuda")


def test_backends_says_what_there_is_and_why():
    found = {name: (available, why) for name, available, why in dispatch.backends()}
    assert list(found) == ["triton", "compiled", "eager", "reference", "auto"]
    assert all(why for _, why in found.values())
    if not torch.cuda.is_available():
        assert not found["triton"][0]
        assert str(f"{closed_form.COMPILE_FROM:,}") in found["auto"][1] or not found["compiled"][0]


# Each runs in a process of its own, forked from one that has loaded torch and no triton.
SCRIPTS = {
    "no GPU": """
os.environ.update(TRITON_INTERPRET="0")
import warnings, torch
from apl.kernels import dispatch
from apl.kernels.bases import Term
from apl.kernels.reference import reference_loss
terms = [Term("ce", 1.0, "norm")]
z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        value = dispatch.loss(z, y, terms, backend="triton")
assert torch.allclose(value, reference_loss(z, y, terms))
print(len(caught), caught[0].message)
""",
    "no triton": """
os.environ.update(TRITON_INTERPRET="1")
sys.path.insert(0, os.path.abspath("without"))
import torch
from apl.kernels import dispatch
from apl import make_loss
print(make_loss("nce_rce", 3)(torch.zeros(2, 3), torch.tensor([0, 1])).item())
print(make_loss("nce_rce", 3, backend="triton")(torch.zeros(2, 3), torch.tensor([0, 1])).item())
print(dispatch.backends()[0])
""",
    "no launch": """
os.environ.update(TRITON_INTERPRET="0")
import os, triton
os.environ["TRITON_INTERPRET"] = "1"  # too late: the kernels are compiled ones, and have no device
import torch
from apl.kernels import dispatch
from apl.kernels.bases import Term
from apl.kernels.reference import reference_loss
terms = [Term("ce", 1.0, "norm")]
z, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
for _ in range(2):
    value = dispatch.loss(z, y, terms, backend="triton")
print(torch.allclose(value, reference_loss(z, y, terms)), dispatch.backends()[0][1])
print(len(dispatch._launch_problems), dispatch._choose("triton", z, (Term("ce"),)))
""",
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What each script printed, and on stderr."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "without" / "triton").mkdir(parents=True)
    (folder / "without" / "triton" / "__init__.py").write_text("raise ImportError('none here')\n")
    begin = f"import os, sys\nsys.path.append({str(ROOT)!r})\nos.chdir({str(folder)!r})\n"
    begin += "import torch\nassert 'triton' not in sys.modules"
    found = apart(list(SCRIPTS.values()), begin, CUDA_VISIBLE_DEVICES="")
    return dict(zip(SCRIPTS, found, strict=True))


@pytest.mark.slow
def test_triton_on_the_cpu_gives_way_with_one_warning(alone):
    done = alone["no GPU"]
    assert done.stdout.startswith("1 the Triton loss cannot run"), done.stdout + done.stderr
    assert "CUDA" in done.stdout


@pytest.mark.slow
def test_without_triton_everything_else_works(alone):
    done = alone["no triton"]
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert float(lines[0]) == pytest.approx(float(lines[1]), rel=1e-6)  # each rounds its own way
    assert "none here" in lines[2]
    assert done.stderr.count("RuntimeWarning") == 1


@pytest.mark.slow
def test_a_kernel_that_cannot_be_launched_gives_way_with_one_warning_and_no_other(alone):
    pytest.importorskip("triton")
    done = alone["no launch"]
    assert done.stdout.split() == ["True", "False", "1", "triton"], done.stdout + done.stderr
    assert done.stderr.count("a kernel could not be launched") == 1, done.stderr


@pytest.mark.slow
def test_a_closed_form_without_a_compiler_runs_uncompiled(tmp_path, monkeypatch):
    for name, value in {"PATH": "", "CXX": "", "TORCHINDUCTOR_CACHE_DIR": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    in_clean_process(_a_closed_form_without_a_compiler_runs_uncompiled)


def _a_closed_form_without_a_compiler_runs_uncompiled():
    terms = [Term("ce", 1.0, "norm")]
    z, y = torch.randn(3000, 100), torch.randint(100, (3000,))
    expected = reference_loss(z, y, terms)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.allclose(dispatch.loss(z, y, terms), expected)
        for _ in range(2):
            assert torch.allclose(dispatch.loss(z, y, terms, backend="compiled"), expected)
    assert [each.category for each in caught].count(RuntimeWarning) == 1
    assert [there for name, there, _ in dispatch.backends() if name == "compiled"] == [False]


def test_no_warning_on_the_default_path():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits = torch.randn(4, 3, requires_grad=True)
        make_loss("nce_rce", 3)(logits, torch.tensor([0, 1, 2, 0])).backward()


@pytest.mark.slow
@pytest.mark.parametrize("backend", CPU)
def test_a_loss_scale_rescues_small_gradients_of_float16(backend):
    torch.manual_seed(0)
    logits, targets = (8 * torch.randn(64, 1000)).half(), torch.randint(1000, (64,))
    terms = loss_terms("nce_rce", 1000)
    grads = []
    for leaf, path in ((logits, backend), (logits.double(), "reference")):
        leaf = leaf.clone().requires_grad_()
        value = dispatch.loss(leaf, targets, terms, backend=path)
        value.backward(torch.tensor(32768.0, dtype=value.dtype))
        grads.append(leaf.grad.double())
    large = grads[1].abs() > 1e-6  # of what float16 can say, but not before it is scaled
    assert large.sum() > 10_000
    assert not (grads[0][large] == 0).any()
    size = grads[1].abs().max().item()
    torch.testing.assert_close(*grads, rtol=2e-3, atol=2e-5 * size)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "reference"])
# Label smoothing asks for the masked class and is inf, as in F.cross_entropy.
@pytest.mark.parametrize("name", [name for name in SUMS if name != "ls"])
def test_masked_logits_give_finite_gradients(name, backend):
    torch.manual_seed(0)
    logits = torch.randn(4, 12)
    logits[:, 5] = -torch.inf
    leaf = logits.requires_grad_()
    loss = make_loss(name, 12, backend=backend)(leaf, torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()
    assert not leaf.grad[:, 5].any()


# Of the normalised ones, which take every class, those whose phi or slope is not finite at p = 0 or
# has a case of its own there, and of those that take the label alone some, beside a sum over the
# classes.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nce+nfl+ngce+nagce+njs+nnce", "ce+rce+gce+amse"])
def test_masked_logits_in_compiled_code(name):
    """Where nothing is looked at, as compiled code has it, and traced, not compiled."""
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 12), torch.tensor([0, 1, 2, 3])
    logits[:, 5] = -torch.inf
    ours = make_loss(name, 12, backend="compiled")
    traced = torch.compile(ours, backend="eager", fullgraph=True)
    found, expected = both(logits, targets, traced, make_loss(name, 12, backend="reference"))
    torch.testing.assert_close(found, expected)
    assert expected[1].isfinite().all()
    assert not found[1][:, 5].any()
