"""FlexLoRA: the mean of LoRA products, factored anew."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, TensorSpec
from fedtt_lightning.federation.aggregation.lora_pairs import check_lora, lora_factor, lora_pairs
from fedtt_lightning.federation.aggregation.operators import OperatorMean


class FlexLoRA(OperatorMean):
    """Averages the products B A of each LoRA and factors the mean by SVD (arXiv 2402.11505).

    With the mean U S V, the server keeps the leading ranks: A = c V and B = U S / c, where c is the
    mean length of A's rows before, so that a B of zeros, PEFT's start, can train and a step moves
    the product as far as it did. A client of smaller rank starts from the leading part of the
    server's product. The products are never built: a LoRA is a tensor train of two cores.

    A LoRA's scaling is that of the server's model (lora_alpha / its r), for clients of every rank.
    Tensors that belong to no LoRA are averaged as they are.
    """

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        check_lora(schema, "FlexLoRA")

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return lora_pairs(names)

    def to_cores(self, factors: Sequence[Tensor]) -> list[Tensor]:
        a, b = factors  # of a convolution: (r, in, k, k) and (out, r, 1, 1)
        return [a.flatten(1).T[None], b.reshape(b.shape[0], -1).T[:, :, None]]

    def to_factors(self, cores: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        return [
            cores[0][0].T.reshape(like[0].shape),
            cores[1][:, :, 0].T.reshape(like[1].shape),
        ]

    def shape_at(self, spec: TensorSpec, rank: int) -> tuple[int, ...]:
        return lora_shape(spec, rank)


def lora_shape(spec: TensorSpec, rank: int) -> tuple[int, ...]:
    """Return the shape of a LoRA factor at a rank: rows of A, columns of B."""
    axis = 0 if lora_factor(spec.name) == "A" else 1
    shape = list(spec.shape)
    shape[axis] = min(shape[axis], rank)
    return tuple(shape)
