"""Labels in files: those that papers published, a network's posterior, and our noise.npz."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from apl.errors import BadInput, one_line
from apl.files import write_atomic
from apl.noise.draw import mean_by_class, warn_past
from apl.noise.labels import UNKNOWN, IntArray, Labels, Matrix
from apl.noise.matrices import check_transition


def read_posterior(path: str | Path, count: int, num_classes: int) -> Matrix:
    """A network's probabilities [N, K] for the training samples in their order, from a .npy."""
    path = Path(path)
    wanted = f"a .npy of the probabilities [{count}, {num_classes}] that a network gives"
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise BadInput(f"no probabilities at {path}; accepted: {wanted}") from None
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(
            f"{path} holds no probabilities ({one_line(error)}); accepted: {wanted}"
        ) from None
    if found.shape != (count, num_classes) or found.dtype.kind not in "fiu":
        raise BadInput(
            f"the array in {path} is {list(found.shape)} of {found.dtype}; accepted: {wanted}"
        )
    posterior: Matrix = found.astype(np.float64)
    if not (posterior >= 0).all() or np.abs(posterior.sum(1) - 1).max(initial=0) > 1e-2:
        raise BadInput(f"the rows of {path} are no probabilities that sum to 1; accepted: {wanted}")
    return posterior


def read_published(path: str | Path, clean: IntArray, num_classes: int) -> IntArray:
    """The noisy labels [n] of a file that a paper published, for the training samples in their
    order, of which `clean` [N] are the labels without noise.

    A .npy of whole numbers (PMD, DAL), a .json list of them (LogitClip, eps-softmax, JAL), a .pt
    with `noisy_label` (CIFAR-100N), or an .npz with `noisy`, as `apl noise` writes it.  There is
    one for each sample; or for nine in ten, where the last tenth is for validation (PMD's 45,000
    of 50,000), and only these are trained on.
    Warns with NoiseWarning past the tolerance bound, as a file in another order would be.
    Raises BadInput for any other file.
    """
    path = Path(path)
    wanted = "a .npy, .json, .pt or .npz file of labels"
    if not path.is_file():
        raise BadInput(f"no labels at {path}; accepted: {wanted}")
    try:
        if path.suffix == ".npy":
            found = {"noisy": np.load(path, allow_pickle=False)}
        elif path.suffix == ".json":
            found = {"noisy": np.asarray(json.loads(path.read_text(encoding="utf-8")))}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        elif path.suffix == ".pt":
            found = read_pt(path)
        else:
            raise BadInput(f"{path} holds no labels; accepted: {wanted}")
    except BadInput:
        raise
    except Exception as error:  # a damaged zip raises nearly anything
        raise BadInput(f"{path} holds no labels ({one_line(error)}); accepted: {wanted}") from None
    key = next((name for name in ("noisy", "noisy_label") if name in found), "")
    if not key:
        raise BadInput(f"{path} has no 'noisy' or 'noisy_label', but {', '.join(found)}")
    given = found[key]
    if given.ndim != 1 or given.dtype.kind not in "iu":
        shape = list(given.shape)
        raise BadInput(
            f"the labels of {path} are {shape} of {given.dtype}; accepted: whole numbers"
        )
    tenth = len(clean) - len(clean) // 10
    if len(given) not in (len(clean), tenth):
        raise BadInput(
            f"{path} has {len(given):,} labels; accepted: {len(clean):,}, one for each training "
            f"sample, or {tenth:,}, without the last tenth"
        )
    if len(given) and not 0 <= given.min() <= given.max() < num_classes:
        raise BadInput(f"the labels of {path} must lie in [0, {num_classes})")
    known = found.get("clean", found.get("clean_label"))
    if known is not None and not np.array_equal(known, clean[: len(given)]):
        raise BadInput(f"{path} holds the labels of other samples, or in another order")
    labels: IntArray = given.astype(np.int64)
    warn_past(mean_by_class(np.eye(num_classes)[labels], clean[: len(given)]))
    return labels


def read_pt(path: Path) -> dict[str, IntArray]:
    """The arrays by name in a .pt of CIFAR-10N or CIFAR-100N (Wei et al. 2022), with nothing of
    what else a pickle could run; raises nearly anything for a damaged file."""
    import torch  # takes seconds, and none else here needs it

    # The file holds numpy arrays: the few constructors they need are named, nothing else may run.
    multiarray = (getattr(np, "_core", None) or np.core).multiarray
    allowed = [
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        multiarray._reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
    ]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(path, weights_only=True)
    return {str(name): np.asarray(labels, np.int64) for name, labels in content.items()}


def write_noise(path: Path, labels: Labels) -> None:
    """noise.npz: clean and noisy labels and the mask of wrong ones [N], and the transition matrix
    [K, K] that they were drawn by; a clean label of -1 is unknown, an unknown matrix is a nan for
    each class."""
    buffer = io.BytesIO()
    transition = labels.transition
    if transition is None:
        named = max(int(part.max(initial=-1)) for part in (labels.given, labels.true))
        transition = np.full(named + 1, np.nan)
    np.savez_compressed(
        buffer, clean=labels.true, noisy=labels.given, mask=labels.wrong, transition=transition
    )
    write_atomic(path, buffer.getvalue())


def read_noise(path: Path) -> Labels:
    """The labels of a noise.npz, checked; BadInput says what is wrong with the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            clean, noisy = file["clean"], file["noisy"]
            transition = np.asarray(file["transition"], np.float64)
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except Exception as error:  # a damaged zip raises nearly anything
        problem = one_line(error)
        raise BadInput(f"{path} holds no noisy labels ({problem}); `apl noise` writes it") from None
    num_classes = len(transition) if transition.ndim else 0
    for name, labels in (("clean", clean), ("noisy", noisy)):
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise BadInput(f"{path}: {name} must be a vector of whole numbers")
        least = UNKNOWN if name == "clean" else 0
        if len(labels) and not least <= labels.min() <= labels.max() < num_classes:
            raise BadInput(f"{path}: {name} labels must lie in [0, {num_classes})")
    if len(clean) != len(noisy):
        raise BadInput(f"{path}: {len(clean)} clean labels but {len(noisy)} noisy ones")
    unknown = bool(np.isnan(transition).all())
    matrix = None if unknown else check_transition(transition, num_classes, f"{path}")
    return Labels(noisy.astype(np.int64), clean.astype(np.int64), matrix)
