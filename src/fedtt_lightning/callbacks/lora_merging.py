"""Merging of what FLoRA stacks into the frozen weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from fedtt_lightning.callbacks.communication import find_communication
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.parts import trainable_parameters
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    FederatedLoop,
    FLoRA,
    RoundPlan,
    TensorSpec,
    Visit,
)
from fedtt_lightning.federation.aggregation.lora_pairs import lora_pairs


class LoRAMerging(Callback):
    """Adds the mean product of each round's LoRAs to the frozen weights it belongs to.

    For `federation.aggregation: FLoRA` (arXiv 2409.05976). The weights so written are in every
    checkpoint, whole, and so in evaluation and resume; what PEFT's `save_pretrained` writes lacks
    them. Counted as download, if there is a Communication callback: the stacks of all rounds since
    the client was last there, or the merged weights whole, whichever is shorter.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._ranks: list[int] = []  # of the stack that each merge added
        self._seen: dict[int, int] = {}  # merges that a client has

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            if not isinstance(find_federation(trainer).aggregation, FLoRA):
                raise ConfigError(
                    "the LoRAMerging callback merges what federation.aggregation FLoRA stacks: set "
                    "it, or remove the callback"
                )
            if trainer.current_epoch == 0:
                self._reset()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for a, _ in lora_pairs(tuple(trainable_parameters(pl_module))).values():
            weight, *_ = _target(pl_module, a)
            owners = [m for m in pl_module.modules() if any(p is weight for p in _own(m))]
            if len(owners) > 1:
                raise ConfigError(
                    f"FLoRA cannot merge {a} into a weight that {len(owners)} layers share: leave "
                    "that layer out of model.peft.target_modules"
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        tensors = find_federation(trainer).loop.adapter.tensors()
        for a, b in lora_pairs(tuple(tensors)).values():
            if tensors[a].any() and tensors[b].any():
                raise ConfigError(
                    f"{a} and its B start with a product that is not zero, which FLoRA would merge "
                    "in every round: set init_lora_weights of model.peft to true"
                )

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        for client in (*plan.dropped, *plan.late, *plan.unused):
            self._count_download(trainer, client)

    def on_client_end(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        self._count_download(trainer, visit.client)

    @torch.no_grad()
    def on_aggregate(
        self, trainer: Trainer, pl_module: LightningModule, old: AdapterState, new: AdapterState
    ) -> None:
        loop = find_federation(trainer).loop
        assert isinstance(loop.aggregation, FLoRA) and loop.plan is not None
        for product, name in loop.aggregation.to_merge():
            weight, scaling, transposed = _target(pl_module, name)
            change = (product.T if transposed else product) * scaling
            weight.add_(change.reshape(weight.shape).to(weight))
        clients = [v.client for v in loop.plan.visits if v.client not in loop.rejected]
        shapes = {spec.name: spec.shape for spec in loop.schema.specs}
        own = max(shapes[a][0] for a, _ in lora_pairs(loop.schema.names).values())
        ranks = [own if loop.ranks is None else int(loop.ranks[c]) for c in clients]
        self._ranks.append(sum(ranks))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Name the weights that are written to, so that no module leaves them out."""
        targets = {
            id(_target(pl_module, pair[0])[0])
            for pair in lora_pairs(tuple(trainable_parameters(pl_module))).values()
        }
        parameters = pl_module.named_parameters(remove_duplicate=False)
        checkpoint["written_weights"] = [name for name, p in parameters if id(p) in targets]

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": list(self._ranks), "seen": dict(self._seen)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._ranks, self._seen = list(state_dict["ranks"]), dict(state_dict["seen"])

    def _count_download(self, trainer: Trainer, client: int) -> None:
        missed = self._ranks[self._seen.get(client, 0) :]
        self._seen[client] = len(self._ranks)
        communication = find_communication(trainer)
        if missed and communication is not None:
            loop = find_federation(trainer).loop
            communication.count_download(stack_bytes(loop, sum(missed)))


def stack_bytes(loop: FederatedLoop, rank: int) -> int:
    """Return the bytes of stacks of a rank, or of the merged weights where these are fewer."""
    specs = {spec.name: spec for spec in loop.schema.specs}
    parts: list[TensorSpec] = []
    for a, b in lora_pairs(loop.schema.names).values():
        inner, outer = specs[a].numel // specs[a].shape[0], specs[b].shape[0]
        dtype = specs[a].dtype
        if rank * (inner + outer) < inner * outer:
            parts += [TensorSpec(a, (rank, inner), dtype), TensorSpec(b, (outer, rank), dtype)]
        else:
            parts.append(TensorSpec(a, (outer, inner), dtype))
    return AdapterSchema(tuple(parts)).message_nbytes


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _target(module: LightningModule, a: str) -> tuple[Tensor, float, bool]:
    """Return the weight that the LoRA with this A changes, its scaling, and whether transposed.

    Raises:
        ConfigError: a product cannot simply be added to that weight.
    """
    path, _, rest = a.rpartition(".lora_")
    layer: Any = module.get_submodule(path)
    adapter = rest.split(".")[1]
    base = layer.get_base_layer()
    weight = getattr(base, "weight", None)
    variant, groups = layer.lora_variant.get(adapter), getattr(base, "groups", 1)
    plain = variant is None and groups == 1
    if not plain or not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
        raise ConfigError(
            f"FLoRA cannot merge into {path}: it must be a plain layer in floating point, not "
            "quantized, not grouped, and model.peft plain LoRA, not DoRA or another variant"
        )
    transposed = isinstance(base, nn.Embedding) or bool(getattr(layer, "fan_in_fan_out", False))
    return weight, float(layer.scaling[adapter]), transposed
