"""One run in several processes, as `torchrun` starts them, by torch's DistributedDataParallel.

Each process takes its share of every batch through the network, and their gradients are averaged.
The logits of all shares are put together in every process: so the loss, what it remembers of each
sample, the counts and who listens see the whole batch, as in one process, and every process comes
to the same decisions.  The first one alone writes and prints.

The head loads no torch: the command line asks for its number before it would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from apl.errors import BadInput, Interrupted, require

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them; alone, all that it does is nothing.

    rank: its number; size: how many there are; local_rank, local_size: the same on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def here(cls) -> Group:
        """The processes that torchrun started, or this one alone."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:  # clusters set WORLD_SIZE for other reasons
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))

    def device(self, name: str) -> torch.device:
        """The device of this process: the GPU of its number on its machine, or the CPU."""
        import torch

        gpus = torch.cuda.device_count()
        if name == "auto":
            name = "cuda" if gpus else "cpu"
        accepted = "auto, cuda, cpu under torchrun: each process takes the GPU of its number"
        require(name in ("cuda", "cpu"), "device", name, accepted)
        if name == "cuda" and self.local_size > gpus:
            raise BadInput(
                f"torchrun started {self.local_size} processes on a machine with {gpus} GPUs; "
                "accepted: a process for each GPU (--nproc-per-node), or --device cpu"
            )
        return torch.device("cuda", self.local_rank) if name == "cuda" else torch.device("cpu")

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Meet the other processes, each on its device, and part from them when all is done."""
        import torch
        import torch.distributed as dist

        if device.type == "cuda":
            torch.cuda.set_device(device)  # NCCL and Triton take the current one
        # Words and flags go from CPU to CPU: no GPU waits for them.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        try:
            yield
        except (BadInput, Interrupted):  # the same in all of them
            dist.destroy_process_group()
            raise
        # After any other error this could wait for those that wait for it; torchrun ends them.
        dist.destroy_process_group()

    def share(self, start: int, end: int) -> slice:
        """This process's part of what is numbered start to end: in one piece, in the order of the
        ranks, the sizes of any two at most one apart.  Less than 2 for each go whole to every one:
        batch norm can't take a batch of one."""
        count = end - start
        if count < 2 * self.size:
            return slice(start, end)
        first, last = (start + count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network as it is called in a step of training: its backward pass averages the
        gradients of all processes."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # The order of the sums stays as it is: without this flag it changes after the first step,
        # and a run that went on would end in other bytes.  And a network with parts that get no
        # gradient is told of as in one process.
        return DistributedDataParallel(network, find_unused_parameters=True)

    def whole(self, share: Tensor, count: int, dim: int = 0) -> Tensor:
        """All shares of what is numbered 0 to `count` along a dimension, put together in every
        process from each one's own; gradients flow back to the own one."""
        if share.shape[dim] == count:
            return share
        import torch
        import torch.distributed as dist

        mine = self.share(0, count)
        shape = [*share.shape]
        shape[dim] = count
        others = share.new_zeros(shape)
        others.narrow(dim, mine.start, share.shape[dim]).copy_(share.detach())
        dist.all_reduce(others)  # a sum with zeros: shares of several sizes have no all_gather
        before, _, after = others.split([mine.start, share.shape[dim], count - mine.stop], dim)
        if share.requires_grad:
            # The gradient of the whole is a sum over the shares, of which DDP takes the mean.
            share.register_hook(lambda gradient: gradient * self.size)
        return torch.cat([before, share, after], dim)

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return here
        import torch
        import torch.distributed as dist

        flag = torch.tensor(int(here))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def from_first(self, work: Callable[[], T]) -> T:
        """What the work gives in the first process, which alone does it, in every one; bad input
        and a failing disk are told in every one too."""
        if self.size == 1:
            return work()
        import torch.distributed as dist

        told: list[Any] = [None]
        if self.rank == 0:
            try:
                told = [work()]
            except (BadInput, OSError) as error:
                told = [error]
        dist.broadcast_object_list(told, src=0)
        if isinstance(told[0], Exception):
            raise told[0]
        given: T = told[0]
        return given

    def one_before_the_rest(self, work: Callable[[], object]) -> None:
        """Do the work in the first process of each machine, while the others wait: what it
        downloads is there for them."""
        if self.size == 1:
            return
        import torch.distributed as dist

        problem: BadInput | None = None
        problems: list[Any] = [None] * self.size
        if self.local_rank == 0:
            try:
                work()
            except BadInput as error:
                problem = error
        dist.all_gather_object(problems, problem)
        for each in problems:
            if each is not None:
                raise each


ALONE = Group()


def synchronise(network: nn.Module) -> nn.Module:
    """The network with torch's SyncBatchNorm for its batch norm, whose statistics are those of the
    whole batch; names and values of its state stay.

    Raises BadInput for batch norm of another's making, which may do more than torch's.
    """
    from torch.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
    from torch.nn.modules.batchnorm import _BatchNorm

    for path, layer in [*network.named_modules()]:
        if type(layer) in (BatchNorm1d, BatchNorm2d, BatchNorm3d):
            network.set_submodule(path, SyncBatchNorm.convert_sync_batchnorm(layer))
        elif isinstance(layer, _BatchNorm) and not isinstance(layer, SyncBatchNorm):
            raise BadInput(
                f"{path} is a {type(layer).__name__}, whose statistics can't be those of several "
                "GPUs; accepted under torchrun: torch's own BatchNorm, or another norm"
            )
    return network
