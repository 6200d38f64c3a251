"""LoRA's bytes on a live model, against LoRA really put into that model."""

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, ConvBertConfig, ConvBertModel

from fedtt_lightning.account.reference import lora_reference
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.federation import AdapterState


def tiny_bert() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128,
    )  # fmt: skip
    return BertForSequenceClassification(config)


@pytest.mark.parametrize("adapted", [False, True])
def test_bytes_equal_those_of_lora_in_the_model(adapted: bool) -> None:
    lora = get_peft_model(
        tiny_bert(), LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    )
    trained = {name: p for name, p in lora.named_parameters() if p.requires_grad}
    head = sum(p.numel() for name, p in trained.items() if "classifier" in name)
    model: nn.Module = tiny_bert()
    if adapted:
        model = get_peft_model(model, TTAdapterConfig(rank=2, task_type=TaskType.SEQ_CLS))
    weights = [p.clone() for p in model.parameters()]
    module = nn.ModuleDict({"user": model})
    parameters = sum(p.numel() for p in trained.values())
    size = len(AdapterState.capture(trained).to_bytes())
    assert lora_reference(module, head) == (parameters, size)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_unknown_models_have_no_reference() -> None:
    assert lora_reference(nn.Linear(3, 3)) is None
    config = ConvBertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, embedding_size=32,
    )  # fmt: skip
    assert lora_reference(ConvBertModel(config)) is None
