"""One run in several processes that ``torchrun`` started: each computes a share of every batch.

Every process has the whole model; gradients are summed, so all take the same step, and the sum is
that of one process (``batches.Batch.whole``). torch's DistributedDataParallel would do the sums
while the backward pass runs; but it averages over processes instead of positions, wants one call a
step where the shared prefix takes two, and fails where a weight gets no gradient.

The first process reads and writes the run's files; the others are told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ollama_bridge.errors import ConfigError, ModelError
from ollama_bridge.models.compute.memory import FLOAT32_BYTES, check_room
from ollama_bridge.models.compute.precision import DTypeChoice, Precision, pinned_precision
from ollama_bridge.reporting import NullReporter, Reporter
from ollama_bridge.storage.artifacts import Work
from ollama_bridge.storage.drafts import Draft, open_draft

# Elements that are summed at once: 100 MB of float32.
_BUCKET = 25_000_000
# The others wait while the first one measures, scores or writes, for hours with a large model.
# torchrun sees to it that nobody waits for a dead one.
_PATIENCE = timedelta(days=7)

M = TypeVar("M")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. Alone, every method costs nothing and changes nothing.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        on_this_machine: How many of them share this machine's memory.
    """

    rank: int = 0
    size: int = 1
    on_this_machine: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """What :func:`joined` has joined, else this process alone."""
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return cls(distributed.get_rank(), distributed.get_world_size(), here)

    @property
    def first(self) -> bool:
        """Whether this process reads and writes the run's files."""
        return self.rank == 0

    def share(self, members: Sequence[M]) -> tuple[M, ...]:
        """This process's examples of a batch: every so manieth, for they are sorted by length."""
        return tuple(members[self.rank :: self.size])

    def reporter(self, reporter: Reporter) -> Reporter:
        """Only the first process tells."""
        return reporter if self.first else NullReporter()

    def agree(self, value: M) -> M:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0)
        agreed: M = box[0]
        return agreed

    def gather(self, values: Sequence[M]) -> list[M]:
        """What the processes made of their shares (:meth:`share`), in the order of the whole."""
        if self.size == 1:
            return list(values)
        shares: list[Any] = [None] * self.size
        distributed.all_gather_object(shares, list(values))
        longest = max(map(len, shares))
        return [part[place] for place in range(longest) for part in shares if place < len(part)]

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            distributed.barrier()

    def check_room(
        self,
        folder: Path,
        precision: Precision,
        *,
        purpose: str,
        frozen: bool = False,
        all_take_back: bool = True,
    ) -> None:
        """Make sure that every process of this machine can hold a model.

        Args:
            folder: Of the checkpoint.
            precision: Where and in what it will be computed.
            purpose: Why it is loaded, in a few words for brackets: "training a model".
            frozen: Whether it is not trained.
            all_take_back: Whether every process has it on the CPU behind its last step, not only
                the one that saves it.

        Raises:
            ModelError: memory is short, of this machine or of another one.
        """
        here, problem = self.on_this_machine, None
        kept_bytes: float = FLOAT32_BYTES
        if frozen:
            kept_bytes = precision.frozen_bytes
        elif precision.device.type == "cuda" and not all_take_back:
            kept_bytes = FLOAT32_BYTES / here
        self.wait()  # what the others have loaded so far is not free any more
        if self.rank % here == 0:
            try:
                check_room(folder, purpose=purpose, copies=here, kept_bytes=kept_bytes)
            except ModelError as error:
                problem = error
        if self.largest(float(problem is not None)):
            raise problem or ModelError("there is too little memory: see the other process's error")

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process does what is in the block, then the others, who find it done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def copy_from_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors by the first process's."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def largest(self, value: float) -> float:
        """The largest of all processes' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return float(tensor)

    def sum_losses(
        self, parts: Mapping[str, torch.Tensor], names: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """The sum of what each process adds to a batch's losses.

        Args:
            parts: Of this one; none, where its share is empty.
            names: Of all parts, the same in every process.
        """
        if self.size == 1:
            return dict(parts)
        values = [float(parts[name]) if name in parts else 0.0 for name in names]
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return dict(zip(names, sums.float().unbind(), strict=True))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients over all processes, where any has one."""
        if self.size == 1:
            return
        parameters = list(parameters)
        device = parameters[0].device
        has = torch.tensor([parameter.grad is not None for parameter in parameters], device=device)
        has = has.to(torch.int32)
        distributed.all_reduce(has, distributed.ReduceOp.MAX)
        gradients = []
        for parameter, any_has in zip(parameters, has.tolist(), strict=True):
            if any_has:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            distributed.all_reduce(flat)
            start = 0
            for gradient in bucket:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()

    def advice_on_threads(self, precision: Precision) -> str | None:
        """What to say where half of the cores stay idle; None where they do not.

        torchrun sets OMP_NUM_THREADS to 1 where it is not set, which cannot be told from a user's
        choice: so that is not changed here.
        """
        cores = psutil.cpu_count(logical=False) or 1
        threads = precision.threads * self.on_this_machine
        if self.size == 1 or precision.device.type != "cpu" or 2 * threads > cores:
            return None
        return (
            f"{self.on_this_machine} processes compute with {precision.threads} thread(s) each "
            f"on {cores} cores: torchrun sets 1 where OMP_NUM_THREADS is not set; start it with "
            f"OMP_NUM_THREADS={cores // self.on_this_machine}"
        )

    def advice_on_device(self, precision: Precision) -> str | None:
        """What to say where a Mac's GPU stays idle; None where it does not, or there is none."""
        if (
            self.size == 1
            or precision.device.type != "cpu"
            or not torch.backends.mps.is_available()
        ):
            return None
        return (
            "several processes of a Mac compute on its CPU, for gloo adds up nothing that lies on "
            "the GPU; one alone, without torchrun, takes it"
        )

    @contextlib.contextmanager
    def open_draft(self, out_dir: Path, work: Work, reporter: Reporter) -> Iterator[Draft]:
        """Like :func:`ollama_bridge.storage.drafts.open_draft`, which the first process alone does.

        Raises:
            ArtifactError: another run is writing this artefact.
        """
        if self.first:
            with open_draft(out_dir, work, reporter=reporter) as draft:
                self.agree((draft.path, draft.finished))
                yield draft
        else:
            path, finished = self.agree((out_dir, None))
            yield Draft(out_dir.absolute(), path, work, finished)

    def pinned_precision(self, path: Path, choice: DTypeChoice) -> Precision:
        """The first process's type and threads, on each one's own device."""
        precision = None
        if self.first:
            precision = pinned_precision(path, choice, processes=self.size)
        pinned = self.agree(precision)
        assert pinned is not None
        if pinned.threads != torch.get_num_threads():
            torch.set_num_threads(pinned.threads)
        return pinned


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` started with this one; alone without it.

    gloo between CPUs, nccl between GPUs; each process takes the GPU of its number on its machine.

    Raises:
        ConfigError: this machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise ConfigError(
                f"{here} processes on this machine, and {gpus} GPU(s), which each needs for itself",
                hint=f"start it with torchrun --nproc-per-node {gpus}, or compute on the CPUs: set "
                "CUDA_VISIBLE_DEVICES= in front of torchrun",
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(rendezvous("env://"))
    # torchrun gives restarted workers the store that it gave the dead ones, whose addresses are
    # still in it. On several machines attempts are counted apart: see training/README.md.
    attempt = "0"
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt {attempt}", store)
    store.set_timeout(_PATIENCE)
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE
    )
    try:
        yield Ranks.current()
    finally:
        distributed.destroy_process_group()


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and sum(map(torch.Tensor.numel, bucket)) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
