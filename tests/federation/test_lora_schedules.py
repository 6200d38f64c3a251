"""FFA-LoRA and RoLoRA on the names that PEFT's LoRA really has."""

from __future__ import annotations

import peft
import pytest
from peft import get_peft_model

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FFALoRA, RoLoRA
from tiny_models import classifier


def names(**options: object) -> list[str]:
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, **options)
    model = get_peft_model(classifier("bert"), config)
    return [name for name, p in model.named_parameters() if p.requires_grad]


def split(names: list[str]) -> tuple[set[str], set[str], set[str]]:
    # In embeddings PEFT starts A at zero and B at random: the other way round.
    a = {name for name in names if ".lora_A." in name or ".lora_embedding_B." in name}
    b = {name for name in names if ".lora_B." in name or ".lora_embedding_A." in name}
    assert len(a) == len(b) > 0
    return a, b, set(names) - a - b


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": ["query", "word_embeddings"]},
        {"use_dora": True},
        {"modules_to_save": ["pooler"]},
    ],
)
def test_who_trains_when(options: dict[str, object]) -> None:
    every = names(**options)
    a, b, others = split(every)
    assert any("classifier" in name for name in others)
    for round in range(4):
        assert FFALoRA().trained(every, round) == b | others
        counted_from_1 = round + 1
        factor = b if counted_from_1 % 2 == 1 else a
        assert RoLoRA().trained(every, round) == factor | others


@pytest.mark.parametrize("kind", [FFALoRA, RoLoRA])
def test_needs_both_factors(kind: type[FFALoRA | RoLoRA]) -> None:
    every = names()
    kind().check(every)
    a, b, _ = split(every)
    with pytest.raises(ConfigError, match=r"needs LoRA.*lora_A: set model.peft to peft.LoraConfig"):
        kind().check(["classifier.weight", "tt_adapter.default.down_core_0"])
    with pytest.raises(ConfigError, match="lora_A"):
        kind().check(sorted(b))
    with pytest.raises(ConfigError, match="lora_B"):
        kind().check(sorted(a))
