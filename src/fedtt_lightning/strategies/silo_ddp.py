"""Data parallelism inside silos, between which nothing but updates travels."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from fedtt_lightning.callbacks import LocalDP
from fedtt_lightning.callbacks.agreement import check_same
from fedtt_lightning.callbacks.parts import Silo
from fedtt_lightning.errors import ConfigError


class SiloDDPStrategy(DDPStrategy):
    """DDP in groups of processes: each of the groups, silos, trains other clients of a round.

    With one silo this is `ddp`: all processes share each batch. With as many silos as processes,
    each process trains clients alone, in a lane of its own. In between, the processes of a silo,
    whose ranks follow each other over one node or several, share the batches of its clients.
    Between silos nothing travels but, once a round, the updates of all clients; then every process
    does what a single one would, so the result is that of one process. What a training step reduces
    (`sync_dist`) or gathers (`all_gather`), it does in its silo.

    Args:
        silos: number of silos; must divide the number of processes.
        kwargs: as of DDPStrategy. `timeout` also limits how long silos wait for each other.

    Raises:
        ConfigError: before training, if `silos` does not divide the number of processes, or these
            have other models.
    """

    def __init__(self, silos: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.silos = silos
        self._silo: Silo | None = None
        self._inside_step = False

    @property
    def silo(self) -> Silo:
        """The silo of this process; there once processes are connected."""
        assert self._silo is not None, "SiloDDPStrategy has no silo before processes are connected"
        return self._silo

    def setup_environment(self) -> None:
        processes = self.num_nodes * self.num_processes
        if self.silos < 1 or processes % self.silos:
            raise ConfigError(
                f"trainer.strategy has {self.silos} silos, into which {processes} processes do not "
                "divide: change silos, trainer.devices or trainer.num_nodes"
            )
        super().setup_environment()

    def setup_distributed(self) -> None:
        super().setup_distributed()
        size = self.world_size // self.silos
        index, rank = divmod(self.global_rank, size)
        if self.silos == 1:
            self._silo = Silo(0, 1, rank, size)
            return
        # Every process takes part in making every group.
        ranks = [range(first, first + size) for first in range(0, self.world_size, size)]
        groups = [distributed.new_group(list(r), timeout=self._timeout) for r in ranks]
        everybody = distributed.new_group(backend="gloo", timeout=self._timeout)
        group = groups[index]
        self._silo = Silo(index, self.silos, rank, size, group, everybody, self._timeout)

    def configure_ddp(self) -> None:
        module = self.model
        assert isinstance(module, LightningModule)
        tensors = [
            f"{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad}"
            for name, tensor in chain(module.named_parameters(), module.named_buffers())
        ]
        check_same(module.trainer, {"model": "\n".join(tensors)})  # or the next lines never end
        callbacks = module.trainer.callbacks  # type: ignore[attr-defined]
        # LocalDP adds up over a silo what it has clipped; DDP would average before that.
        alone = self.silo.size == 1 or any(isinstance(c, LocalDP) for c in callbacks)
        if alone or self.silos > 1:
            _begin_equal(module)
        if alone:
            return
        if self.silo.group is not None:
            self._ddp_kwargs["process_group"] = self.silo.group
        super().configure_ddp()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self._inside_step = True
        try:
            return super().training_step(*args, **kwargs)
        finally:
            self._inside_step = False

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        return super().reduce(tensor, self._within(group), reduce_op)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return super().all_gather(tensor, self._within(group), sync_grads)

    def _within(self, group: Any) -> Any:
        everybody = group is None or group is distributed.group.WORLD
        if everybody and self._inside_step:
            return self.silo.group  # other silos are at other steps, or have none
        return group


def _begin_equal(module: LightningModule) -> None:
    """Give all processes the first one's parameters and buffers, as DDP does in its group."""
    with torch.no_grad():
        for tensor in chain(module.parameters(), module.buffers()):
            if not isinstance(tensor, DTensor):  # shards differ, and come from the same weights
                whole = tensor.detach().contiguous()  # as NCCL demands
                distributed.broadcast(whole, 0)
                tensor.copy_(whole)
