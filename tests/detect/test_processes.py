"""A monitor in several processes of torch.distributed knows what all of them have seen."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import PATIENCE
from forked import CONTEXT
from torch.utils.data import DistributedSampler

from apl.detect.monitor import LabelMonitor

CLASSES, EPOCHS = 4, 5


def logits_of(count: int) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(EPOCHS, count, CLASSES, generator=draws)
    return noise + 3 * torch.nn.functional.one_hot(torch.arange(count) % CLASSES, CLASSES)


def see(folder: Path, rank: int, uneven: bool) -> None:
    """Be one of two processes that train, with torch's DistributedSampler, which shows the first
    samples twice where they are no multiple of the processes; the last batches differ in size where
    it is said so."""
    patience = datetime.timedelta(seconds=PATIENCE)
    meeting = {"init_method": (folder / "meeting").as_uri(), "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", timeout=patience, **meeting)
    logits = torch.from_numpy(np.load(folder / "logits.npy"))
    epochs, count, classes = logits.shape
    labels = torch.arange(count) % classes
    monitor = LabelMonitor(count, classes, curves=True)
    sampler = DistributedSampler(range(count), seed=1)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        mine = torch.tensor(list(sampler))
        if uneven and rank == 1:
            mine = mine[:-1]
        for chosen in mine.split(16):
            monitor.update(chosen, logits[epoch, chosen], labels[chosen])
        if epoch == 2:  # a checkpoint, which the first process alone writes
            if rank == 0:
                torch.save(monitor.state_dict(), folder / "state.pt")
            dist.barrier()
            monitor = LabelMonitor(count, classes, curves=True)
            monitor.load_state_dict(torch.load(folder / "state.pt"))
    if rank == 0:
        monitor.issues()  # the first alone asks, and waits for nobody
    dist.destroy_process_group()
    found, evidence = monitor.findings(), monitor.evidence
    np.savez(
        folder / f"rank{rank}.npz",
        scores=found.label_score,
        flagged=found.is_label_issue,
        log_probs=evidence.log_probs,
        early=evidence.early,
        visits=evidence.visits,
        curves=monitor.curves,
        doubts=found.doubts,
    )


def in_two(folder: Path, count: int, sizes: str) -> list[dict[str, np.ndarray]]:
    np.save(folder / "logits.npy", logits_of(count).numpy())
    both = [CONTEXT.Process(target=see, args=(folder, k, sizes == "uneven")) for k in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE)
        assert process.exitcode == 0, "what it raised is printed above"
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(2)]


@pytest.mark.parametrize(("count", "sizes"), [(200, "even"), (201, "uneven")])
def test_two_processes_find_what_one_finds(tmp_path: Path, count: int, sizes: str) -> None:
    first, second = in_two(tmp_path, count, sizes)
    for name, values in first.items():
        assert np.array_equal(values, second[name], equal_nan=values.dtype.kind == "f"), name
    alone = LabelMonitor(count, CLASSES)
    logits = logits_of(count)
    for epoch in range(EPOCHS):
        alone.update(torch.arange(count), logits[epoch], torch.arange(count) % CLASSES)
    assert not any("never seen" in str(text) for text in first["doubts"])
    if sizes == "even":
        found, evidence = alone.findings(), alone.evidence
        assert (first["visits"] == EPOCHS).all()
        assert np.allclose(first["log_probs"], evidence.log_probs, atol=1e-5)
        assert np.allclose(first["early"], evidence.early, atol=1e-6)
        assert np.allclose(first["scores"], found.label_score, atol=1e-5)
        assert np.array_equal(first["flagged"], found.is_label_issue)
        assert not np.isnan(first["curves"]).any()
    else:
        assert first["visits"].sum() == count * EPOCHS


def test_alone_nothing_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.all_gather", None)
    monitor = LabelMonitor(3, 2)
    monitor.update(torch.arange(3), torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    assert monitor.evidence.visits.tolist() == [1, 1, 1]
