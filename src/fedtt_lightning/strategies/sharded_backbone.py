"""Data parallelism over a backbone that no process holds whole."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fedtt_lightning.callbacks import ClientEvaluation, LoRAMerging
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.strategies.sharding import shard_frozen
from fedtt_lightning.strategies.silo_ddp import SiloDDPStrategy


class ShardedBackbone(SiloDDPStrategy):
    """SiloDDPStrategy with the frozen weights of transformer blocks spread over a silo's processes.

    A block's weights are gathered while it computes, forward and backward, and dropped afterwards
    (PyTorch's FSDP2, `fully_shard`, of torch 2.7 or newer). What trains is whole in every process
    and its gradients are averaged as under DDP, so results are those of `ddp`, to the last bit.
    Embeddings and head are whole, too. Checkpoints are those of `ddp`. Of a silo that spans nodes,
    the processes of each node share the weights.

    All processes must run the model equally often, or they wait for each other forever. So each of
    them predicts all examples, not a share.

    Args:
        silos: number of silos; must divide the number of processes.
        kwargs: as of DDPStrategy. `timeout` also limits how long silos wait for each other.

    Raises:
        ConfigError: before training, if torch is older, there is nothing to shard, it is quantized,
            or a callback cannot work with shards.
    """

    _mesh: DeviceMesh | None = None

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        if self.lightning_module is not None and self.lightning_module.trainer.predicting:
            return {"num_replicas": 1, "rank": 0}
        return super().distributed_sampler_kwargs

    def setup(self, trainer: Trainer) -> None:
        _check(trainer)
        evaluations = (trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
        for loop in (trainer.fit_loop.epoch_loop.val_loop, *evaluations):
            loop.inference_mode = False  # what is gathered in it first could never train
        super().setup(trainer)

    def model_to_device(self) -> None:
        """Shard on the way to the device, which need not have room for the whole model."""
        assert isinstance(self.model, LightningModule)
        if self._mesh is None:
            together = gcd(self.silo.size, self.num_processes)
            shape = (self.world_size // together, together)
            groups = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("all", "shard"))
            self._mesh = groups["shard"]
        shard_frozen(self.model, self._mesh)
        shards = [n for n, p in self.model.named_parameters() if isinstance(p, DTensor)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, shards)
        super().model_to_device()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write frozen weights whole, if the module did not leave them out."""
        checkpoint["state_dict"] = {
            name: value.full_tensor().cpu() if isinstance(value, DTensor) else value
            for name, value in checkpoint["state_dict"].items()
        }
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Read frozen weights that are whole into the shards that an earlier run has left."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {n: _as_in(own.get(n), value) for n, value in checkpoint["state_dict"].items()}
        super().load_model_state_dict({"state_dict": state}, strict)


def _as_in(own: Any, value: Any) -> Any:
    if isinstance(own, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value, own.device_mesh, own.placements)
    return value


def _check(trainer: Trainer) -> None:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        raise ConfigError(
            f"trainer.strategy ShardedBackbone needs torch>=2.7, but this is {torch.__version__}: "
            "upgrade it, or use ddp"
        )
    unfit = {
        ClientEvaluation: "runs other batches in each process",
        LoRAMerging: "writes to the frozen weights",
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if (why := unfit.get(type(callback))) is not None:
            raise ConfigError(
                f"trainer.strategy ShardedBackbone does not go with {type(callback).__name__} in "
                f"trainer.callbacks, which {why}: use ddp, or remove it"
            )
