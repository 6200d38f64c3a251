"""FLoRA: the clients' LoRAs stacked, to be merged into the frozen weights."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.flex_lora import FlexLoRA
from fedtt_lightning.federation.aggregation.het_lora import cut_lora
from fedtt_lightning.federation.aggregation.lora_pairs import check_lora, lora_factor


class FLoRA(FlexLoRA):
    """Stacks the clients' A and B, which is the exact mean of their products (arXiv 2409.05976).

    The stack is merged into the frozen weights by the callback `LoRAMerging`, which this rule
    needs, and every round begins with the LoRA that the run began with, whose product is zero
    (the paper draws it anew). The federated LoRA itself so never changes, and its bytes travel
    down once; the stack travels instead, as `LoRAMerging` counts. Clients of smaller rank train the
    first rows of A and columns of B. A stack of a higher rank than the weight is cut to that,
    exactly. Tensors that belong to no LoRA are averaged as they are.
    """

    companion = "LoRAMerging"

    def __init__(self) -> None:
        super().__init__()
        self._merge: dict[str, tuple[Tensor, list[str]]] = {}

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        check_lora(schema, "FLoRA")

    def check_trained(self, trained: Collection[str], round: int) -> None:
        roles = {lora_factor(name) for name in trained}
        if "A" in roles and "B" not in roles:
            raise ConfigError(
                f"federation.aggregation FLoRA begins each round at B = 0, where A alone, which "
                f"trains in round {round + 1}, learns nothing: use FFALoRA, or no FactorFreezing"
            )

    def result(self, old: AdapterState) -> AdapterState:
        self._merge = {}
        for key, names in self.groups(old.schema.names).items():
            if key in self._total:
                first, last = self._total[key]
                product = first[0] @ last[:, :, 0] / self._weight
                if lora_factor(names[0]) == "A":
                    product = product.T
                self._merge[key] = product, sorted(names)
        return self._rest.result(old)

    def to_merge(self) -> list[tuple[Tensor, str]]:
        """Return, of the last result, each mean product B A (out x in) with the name of its A."""
        return [(product, names[0]) for product, names in self._merge.values()]

    def shrink(self, adapter: AdapterState, rank: int) -> AdapterState:
        return cut_lora(adapter, rank)
