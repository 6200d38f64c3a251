"""Frozen weights of transformer blocks, spread over processes."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from fedtt_lightning.errors import ConfigError


def shard_frozen(module: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the frozen weights in the blocks of a module's transformers model over a mesh.

    Blocks move to the mesh's device one by one, keep there their part only, and gather the whole
    while they compute. Parameters that require gradients stay as they are, and so does all that is
    outside of blocks. What is sharded already is left alone.

    Args:
        mesh: of one dimension; its processes share the weights.

    Raises:
        ConfigError: there is nothing to shard, or it is quantized.
    """
    model = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)
    if isinstance(model, FSDPModule):
        return
    blocks = [] if model is None else _blocks(model)
    if model is None or not blocks:
        raise ConfigError(
            "trainer.strategy ShardedBackbone shards the blocks of a transformers model, and "
            f"{type(module).__name__} has none: use ddp"
        )
    frozen = [p for block in blocks for p in block.parameters() if not p.requires_grad]
    if not frozen:
        raise ConfigError(
            "trainer.strategy ShardedBackbone shards frozen weights, but all blocks train: set "
            "model.peft or model.trainable, or use ddp"
        )
    if not all(parameter.is_floating_point() for parameter in frozen):
        raise ConfigError(
            "trainer.strategy ShardedBackbone cannot shard quantized weights: set "
            "model.quantization to null, or use ddp"
        )
    for block in blocks:
        trained = {p for p in block.parameters() if p.requires_grad}
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # The model as a whole shards nothing more, but its blocks then fetch ahead of each other, and
    # `generate` goes on in a process that has finished until all have.
    fully_shard(model, mesh=mesh, ignored_params=set(model.parameters()))


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the outermost parts that transformers could compute again in the backward pass."""
    found: list[nn.Module] = []
    for child in model.children():
        found += [child] if isinstance(child, GradientCheckpointingLayer) else _blocks(child)
    return found
