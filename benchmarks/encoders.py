"""Encoders with random weights and the methods put into them, for benchmarks of training steps."""

from __future__ import annotations

from typing import Any

VOCABULARY, TOKENS = 8192, 128
BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}


def encoder(size: dict[str, int]) -> Any:
    """Return a BERT classifier without dropout, its weights the same for the same size."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        **size,
        vocab_size=VOCABULARY,
        intermediate_size=4 * size["hidden_size"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config).train()


def inputs(batch: int) -> dict[str, Any]:
    import torch

    drawn = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (batch, TOKENS), generator=drawn)
    labels = torch.randint(0, 2, (batch,), generator=drawn)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def floor(size: dict[str, int]) -> Any:
    """A frozen backbone whose head trains, with gradients that flow to the first layer."""
    model = encoder(size).requires_grad_(False)
    model.classifier.requires_grad_(True)
    model.enable_input_require_grads()
    return model


def fedtt(size: dict[str, int], recompute_input: bool = False) -> Any:
    from peft import get_peft_model

    from fedtt_lightning.adapters import TTAdapterConfig

    config = TTAdapterConfig(
        rank=5, tt_classifier=False, activation="gelu", recompute_input=recompute_input
    )
    return _same_head(get_peft_model(encoder(size), config))


def lora(size: dict[str, int]) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    return _same_head(get_peft_model(encoder(size), config))


def loretta(size: dict[str, int]) -> Any:
    """FedTT's adapters as LoRETTA's code computes them: each weight is built from its cores."""
    import torch.nn.functional as F

    from fedtt_lightning.adapters import TTAdapter
    from fedtt_lightning.tensor_train import to_dense

    class Rebuilt(TTAdapter):
        def forward(self, x: Any, source: Any = None) -> Any:
            down = to_dense(self._cores("down_core", self.down), self.down.split)
            up = to_dense(self._cores("up_core", self.up), self.up.split)
            hidden = F.gelu(F.linear(x, down.T, self.down_bias))
            return x + F.linear(hidden, up.T, self.up_bias)

    model = fedtt(size)
    for module in model.modules():
        if type(module) is TTAdapter:
            module.__class__ = Rebuilt
    return model


def _same_head(model: Any) -> Any:
    """Let the classifier alone train as a head: methods choose heads of their own otherwise."""
    for name, parameter in model.named_parameters():
        if "pooler" in name:
            parameter.requires_grad_(False)
    return model
