"""The methods of the account: what each trains, and in which rounds it sends what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TaskType, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from fedtt_lightning.account.families import FAMILIES, is_decoder
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.federation import (
    AdapterSchema,
    FFALoRA,
    FreezingSchedule,
    RoLoRA,
    RotatingFactor,
    UploadCodec,
)
from fedtt_lightning.federation.freezing import factor_groups

PARTS = ("factors", "biases", "norms", "head")
# A tensorized classifier's `core_0`, without down or up, belongs to the head.
_ADAPTER = re.compile(r"(down|up)_(core_\d+|weight|bias)$|\.lora_[AB]\.")


@dataclass(frozen=True)
class Method:
    """A method's trainable tensors, without values, and the names it sends in each round.

    `rounds` is one period of what is sent; a method that sends everything has one entry.
    """

    name: str
    tensors: dict[str, Tensor]
    rounds: tuple[frozenset[str], ...]

    def parameters(self) -> dict[str, int]:
        """Return the number of trainable parameters by part (PARTS)."""
        counts = dict.fromkeys(PARTS, 0)
        for name, tensor in self.tensors.items():
            counts[part_of(name)] += tensor.numel()
        return counts

    def message_sizes(
        self, dtype: torch.dtype, head: bool, codec: UploadCodec | None = None
    ) -> list[int]:
        """Return the bytes of each round's message, serialized as the federation does."""
        return [
            message_size({n: t for n, t in self.tensors.items() if n in names}, dtype, head, codec)
            for names in self.rounds
        ]


def methods(family: str, rank: int, bottleneck: int) -> Iterator[Method]:
    """Build every method on a family's model, on the meta device.

    Raises:
        ConfigError: the rank or bottleneck does not fit the family's sizes.
    """
    tt: dict[str, Any] = {
        "rank": rank,
        "bottleneck": bottleneck,
        "tt_classifier": not is_decoder(family),
    }
    tensors = _trainable(_adapted(family, TTAdapterConfig(**tt)))
    yield _constant("FedTT", tensors)
    layernorms = _adapted(family, TTAdapterConfig(**tt, train_layernorms=True))
    yield _constant("FedTT, norms too", _trainable(layernorms))
    period = lcm(*(max(len(factors) - 2, 1) for factors in factor_groups([*tensors]).values()))
    yield _scheduled("FedTT+", tensors, RotatingFactor(), period)
    yield _scheduled("FedTT+, factors only", tensors, RotatingFactor(biases=False), period)
    lora = {r: lora_tensors(_model(family), r, _task(family)) for r in (4, 8)}
    for r in lora:
        yield _constant(f"LoRA r={r}", lora[r])
    yield _scheduled("FFA-LoRA r=8", lora[8], FFALoRA(), 1)
    yield _scheduled("RoLoRA r=8", lora[8], RoLoRA(), 2)
    dense = _trainable(_adapted(family, TTAdapterConfig(tensorized=False, bottleneck=bottleneck)))
    adapters = {name: tensor for name, tensor in dense.items() if part_of(name) != "head"}
    head = {name: tensor for name, tensor in lora[8].items() if part_of(name) == "head"}
    yield _constant(f"dense adapter {bottleneck}", {**adapters, **head})


def lora_tensors(model: nn.Module, r: int, task: TaskType) -> dict[str, Tensor]:
    """Return the tensors that PEFT's LoRA trains with its own default targets (q and v).

    ValueError if PEFT knows no targets for the model.
    """
    return _trainable(get_peft_model(model, LoraConfig(r=r, task_type=task)))


def message_size(
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    head: bool = True,
    codec: UploadCodec | None = None,
) -> int:
    """Return the bytes of one message with these tensors' shapes, with or without a task head.

    Args:
        dtype: of the model.
        codec: how it is sent; as it is if not given.
    """
    shapes = {
        name: torch.empty(tensor.shape, dtype=dtype, device="meta")
        for name, tensor in tensors.items()
        if head or part_of(name) != "head"
    }
    schema = AdapterSchema.of(shapes)
    return schema.message_nbytes if codec is None else codec.message_nbytes(schema)


def part_of(name: str) -> str:
    """Return the part (of PARTS) that a trainable parameter belongs to."""
    if _ADAPTER.search(name):
        return "biases" if name.endswith("bias") else "factors"
    return "norms" if "norm" in name.lower() else "head"


def _model(family: str) -> nn.Module:
    kind = AutoModelForCausalLM if is_decoder(family) else AutoModelForSequenceClassification
    config = AutoConfig.for_model(**FAMILIES[family])
    with torch.device("meta"):
        model: nn.Module = kind.from_config(config)
    return model


def _task(family: str) -> TaskType:
    return TaskType.CAUSAL_LM if is_decoder(family) else TaskType.SEQ_CLS


def _adapted(family: str, peft: PeftConfig) -> Any:
    peft.task_type = _task(family)
    return get_peft_model(_model(family), peft)


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _constant(name: str, tensors: dict[str, Tensor]) -> Method:
    return Method(name, tensors, (frozenset(tensors),))


def _scheduled(
    name: str, tensors: dict[str, Tensor], schedule: FreezingSchedule, period: int
) -> Method:
    rounds = tuple(schedule.trained([*tensors], round) for round in range(period))
    sent = frozenset().union(*rounds)
    return Method(name, {n: t for n, t in tensors.items() if n in sent}, rounds)
