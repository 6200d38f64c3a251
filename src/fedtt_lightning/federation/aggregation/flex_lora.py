"""FlexLoRA: the mean of LoRA products, factored anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, TensorSpec
from fedtt_lightning.federation.aggregation.lora_pairs import (
    check_lora,
    is_embedding,
    lora_factor,
    lora_pairs,
)
from fedtt_lightning.federation.aggregation.operators import OperatorMean


class FlexLoRA(OperatorMean):
    """Averages the products B A of each LoRA and factors the mean by SVD (arXiv 2402.11505).

    With the mean U S V, the server keeps the leading ranks: A = c V and B = U S / c, where c is the
    mean length of A's rows before, so that a B of zeros, PEFT's start, can train and a step moves
    the product as far as it did (of an embedding, whose A starts at zero, the other way round). A
    client of smaller rank starts from the leading part of the server's product. The products are
    never built: a LoRA is a tensor train of two cores.

    A LoRA's scaling is that of the server's model (lora_alpha / its r), for clients of every rank.
    Tensors that belong to no LoRA are averaged as they are.
    """

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        check_lora(schema, "FlexLoRA")

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """The factor that PEFT starts at zero comes last, and holds the size of the product."""
        pairs = lora_pairs(names)
        return {pair: found[::-1] if is_embedding(pair) else found for pair, found in pairs.items()}

    def to_cores(self, factors: Mapping[str, Tensor]) -> list[Tensor]:
        first, last = (_columns(name, factor) for name, factor in factors.items())
        return [first[None], last.T[:, :, None]]

    def to_factors(
        self, cores: Sequence[Tensor], like: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        matrices = [cores[0][0], cores[1][:, :, 0].T]
        return {
            name: (matrix.T if lora_factor(name) == "A" else matrix).reshape(factor.shape)
            for (name, factor), matrix in zip(like.items(), matrices, strict=True)
        }

    def shape_at(self, spec: TensorSpec, rank: int) -> tuple[int, ...]:
        return lora_shape(spec, rank)


def _columns(name: str, factor: Tensor) -> Tensor:
    """A transposed (in x r) or B (out x r); a convolution has (r, in, k, k) and (out, r, 1, 1)."""
    return factor.flatten(1).T if lora_factor(name) == "A" else factor.flatten(1)


def lora_shape(spec: TensorSpec, rank: int) -> tuple[int, ...]:
    """Return the shape of a LoRA factor at a rank: rows of A, columns of B."""
    axis = 0 if lora_factor(spec.name) == "A" else 1
    shape = list(spec.shape)
    shape[axis] = min(shape[axis], rank)
    return tuple(shape)
