"""What trains without PEFT, by name; and prompts and prefixes on models that cannot take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, softmax
from transformers import AutoModelForSequenceClassification

from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules import SequenceClassifier
from tiny_models import CONFIGS, classifier

HEAD = {"bert.pooler.dense", "classifier"}


def trained(module: SequenceClassifier) -> set[str]:
    return {name for name, p in module.model.named_parameters() if p.requires_grad}


def test_null_trains_all_and_nothing_the_head_alone(bert: str) -> None:
    everything = SequenceClassifier(bert)
    assert trained(everything) == {name for name, _ in everything.model.named_parameters()}
    head = SequenceClassifier(bert, trainable=[])
    assert trained(head) == {f"{name}.{kind}" for name in HEAD for kind in ("weight", "bias")}
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == head.fresh_parameters


def test_bitfit_trains_every_bias_and_the_head(bert: str) -> None:
    module = SequenceClassifier(bert, trainable=[r"\.bias$"])
    names = [name for name, _ in module.model.named_parameters()]
    biases = {name for name in names if name.rpartition(".")[2] == "bias"}
    assert trained(module) == biases | {f"{name}.weight" for name in HEAD}
    assert len(biases) == 2 * 8 + 3  # layers; embeddings' LayerNorm, pooler, classifier


def test_patterns_add_up(bert: str) -> None:
    module = SequenceClassifier(bert, trainable=["LayerNorm", r"layer\.1\.output\.dense"])
    names = {name for name, _ in module.model.named_parameters()}
    wanted = {n for n in names if "LayerNorm" in n or "layer.1.output.dense" in n}
    assert trained(module) == wanted | {n for n in names if "pooler" in n or "classifier" in n}


def test_a_head_from_the_file_trains_if_it_is_named(bert: str, tmp_path: Path) -> None:
    whole = SequenceClassifier(bert)
    whole.model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="trainable is empty"):
        SequenceClassifier(str(tmp_path), trainable=[])
    module = SequenceClassifier(str(tmp_path), trainable=["^classifier"])
    assert trained(module) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(module.model.classifier.weight, whole.model.classifier.weight)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"trainable": ["("]}, "no regular expression"),
        ({"trainable": ["LayrNorm"]}, "did you mean LayerNorm"),
        ({"trainable": [r"\.bias$", "%%"]}, "'%%' is found in no"),
        ({"trainable": [], "peft": TTAdapterConfig(rank=2, bottleneck=8)}, "without model.peft"),
    ],
)
def test_bad_patterns(bert: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        SequenceClassifier(bert, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("trainable", [[], [r"\.bias$"]], ids=["head", "bitfit"])
def test_checkpoints_leave_the_frozen_weights_out(
    bert: str, batch: dict[str, Tensor], tmp_path: Path, trainable: list[str]
) -> None:
    module = SequenceClassifier(bert, trainable=trainable, lr=0.1)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([batch], batch_size=None))
    (file,) = tmp_path.rglob("*.ckpt")
    saved = torch.load(file, weights_only=True)["state_dict"]
    assert {name.removeprefix("model.") for name in saved} == trained(module)
    loaded = SequenceClassifier.load_from_checkpoint(file)
    assert trained(loaded) == trained(module)
    for (name, ours), theirs in zip(loaded.named_parameters(), module.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def save(family: str, folder: Path) -> str:
    model = classifier(family, pad_token_id=CONFIGS[family]().pad_token_id or 0)
    model.save_pretrained(folder)
    return str(folder)


PROMPT = peft.PromptTuningConfig(num_virtual_tokens=3)
PREFIX = peft.PrefixTuningConfig(num_virtual_tokens=3)


@pytest.mark.parametrize(
    ("family", "config", "named"),
    [
        ("deberta", PREFIX, "does not work on Deberta.*past key values"),
        ("t5", PROMPT, "does not work on T5.*not supported"),
        ("llama", PROMPT, "does not work on Llama.*batched"),
        ("distilbert", PROMPT, "token_dim"),
    ],
)
def test_prompts_that_cannot_work(family: str, config: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        SequenceClassifier(save(family, tmp_path), config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "config"),
    [("roberta", PREFIX), ("electra", PREFIX), ("deberta", PROMPT), ("llama", PREFIX)],
)
def test_prompts_that_work(family: str, config: Any, tmp_path: Path) -> None:
    module = SequenceClassifier(save(family, tmp_path), config)
    assert any("prompt_encoder" in name for name in trained(module))
    assert all(part.training for part in module.modules())


def plain_bert(model: Any, ids: Tensor, mask: Tensor, prefix: Tensor) -> Tensor:
    """BERT's logits, written anew; each layer attends to its own prefix too (arXiv 2101.00190).

    `prefix` (layers, key and value, virtual tokens, hidden) is the same for every text.
    """
    state = dict(model.named_parameters())

    def affine(name: str, x: Tensor) -> Tensor:
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    rows, length, heads = *ids.shape, model.config.num_attention_heads
    virtual = prefix.shape[2]
    embeddings = "bert.embeddings."
    x = state[f"{embeddings}word_embeddings.weight"][ids]
    # PEFT's prefix is a cache, and a token's position counts what is in it.
    x = x + state[f"{embeddings}position_embeddings.weight"][virtual : virtual + length]
    x = norm(f"{embeddings}LayerNorm", x + state[f"{embeddings}token_type_embeddings.weight"][0])
    bias = torch.cat([torch.ones(rows, virtual), mask], 1)[:, None, None].log().to(x.dtype)
    for i in range(model.config.num_hidden_layers):
        layer = f"bert.encoder.layer.{i}."
        query, key, value = (
            affine(f"{layer}attention.self.{part}", x) for part in ("query", "key", "value")
        )
        key, value = (
            torch.cat([own.expand(rows, -1, -1), part], 1)
            for own, part in zip(prefix[i], (key, value), strict=True)
        )
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        weights = softmax(query @ key.mT / query.shape[-1] ** 0.5 + bias, -1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        x = norm(
            f"{layer}attention.output.LayerNorm",
            x + affine(f"{layer}attention.output.dense", mixed),
        )
        inner = gelu(affine(f"{layer}intermediate.dense", x))
        x = norm(f"{layer}output.LayerNorm", x + affine(f"{layer}output.dense", inner))
    return affine("classifier", torch.tanh(affine("bert.pooler.dense", x[:, 0])))


def test_prefix_tuning_is_prefix_tuning(bert: str, batch: dict[str, Tensor]) -> None:
    """Both directions attended to, padding masked, a prefix of keys and values in each layer."""
    module = SequenceClassifier(bert, PREFIX).double().eval()
    (values,) = (p for name, p in module.named_parameters() if "prompt_encoder" in name)
    plain = module.model.get_base_model()
    nn.init.normal_(values)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    # A virtual token's row: key and value of layer 0, key and value of layer 1, ...
    prefix = values.view(3, 2, 2, 32).permute(1, 2, 0, 3)
    state = {n.replace(".modules_to_save.default", ""): p for n, p in plain.named_parameters()}
    reference = AutoModelForSequenceClassification.from_config(plain.config).double()
    reference.load_state_dict(state, strict=False)
    expected = plain_bert(reference, ids, mask, prefix)
    torch.testing.assert_close(module(input_ids=ids, attention_mask=mask), expected)
    assert not torch.allclose(expected, plain_bert(reference, ids, mask, 0 * prefix))
