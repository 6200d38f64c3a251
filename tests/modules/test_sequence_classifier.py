"""Training with any PEFT method, against a plain loop and by-hand evaluation."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules import SequenceClassifier

METHODS: dict[str, Any] = {
    "tt": lambda: TTAdapterConfig(rank=3, bottleneck=16),
    "tt-classifier": lambda: TTAdapterConfig(rank=3, bottleneck=16, tt_classifier=True),
    "tt-norms": lambda: TTAdapterConfig(rank=3, bottleneck=16, train_layernorms=True),
    "lora": lambda: peft.LoraConfig(r=4, target_modules=["query", "value"]),
    "ia3": lambda: peft.IA3Config(target_modules=["value"], feedforward_modules=[]),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3),
    "vera": lambda: peft.VeraConfig(r=8, target_modules=["query", "value"]),
    "all": lambda: None,
}


def build(bert: str, method: str = "tt", **changes: Any) -> SequenceClassifier:
    torch.manual_seed(7)
    return SequenceClassifier(bert, METHODS[method](), **changes)


def trainer(**changes: Any) -> Trainer:
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    options = {"accelerator": "cpu", "enable_checkpointing": False, "max_epochs": 1, **quiet}
    return Trainer(**(options | changes))


def loader(batch: dict[str, Tensor], *sizes: int) -> DataLoader[Any]:
    """The batch's rows again in batches of the given sizes."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [
        {key: value[start : start + size] for key, value in batch.items()}
        for start, size in zip(starts, sizes, strict=True)
    ]
    return DataLoader(parts, batch_size=None)


@pytest.mark.parametrize("method", METHODS)
def test_every_trainable_learns_and_nothing_else_moves(
    bert: str, batch: dict[str, Tensor], method: str
) -> None:
    module = build(bert, method, lr=0.01)
    data = loader(batch, 4, 2)
    (start,) = trainer().validate(module, data, verbose=False)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    assert all(part.training for part in module.modules()), "dropout would be off"
    trainer(max_epochs=30).fit(module, data)
    for name, parameter in module.named_parameters():
        # A key's bias shifts all of a query's scores alike, which softmax undoes.
        if parameter.requires_grad and "key.bias" not in name:
            assert parameter.grad is not None, name
            assert not torch.equal(parameter, before[name]), name
        elif not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name
    (end,) = trainer().validate(module, data, verbose=False)
    assert end["val_loss"] < start["val_loss"]


@pytest.mark.parametrize("method", ["tt", "lora", "all"])
def test_training_in_float64_equals_a_plain_loop_to_the_last_bit(
    bert: str, batch: dict[str, Tensor], method: str
) -> None:
    module = build(bert, method, lr=0.01, weight_decay=0.1)
    plain = deepcopy(module.model).double()
    torch.manual_seed(1)
    trainer(max_epochs=3, precision="64-true").fit(module, loader(batch, 3, 3))
    torch.manual_seed(1)
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1, fused=True)
    for _ in range(3):
        for part in loader(batch, 3, 3):
            optimizer.zero_grad()
            plain(**part).loss.backward()
            optimizer.step()
    for (name, ours), theirs in zip(
        module.model.named_parameters(), plain.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name


def test_validation_and_test_log_means_over_examples(bert: str, batch: dict[str, Tensor]) -> None:
    module = build(bert, task="cola")
    parts = loader(batch, 1, 5)
    (validated,) = trainer().validate(module, parts, verbose=False)
    (tested,) = trainer().test(module, parts, verbose=False)
    module.eval()
    with torch.no_grad():
        logits = module(**batch)
    loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
    accuracy = (logits.argmax(-1) == batch["labels"]).float().mean()
    assert set(validated) == {"val_loss", "val_acc", "val_mcc"}
    assert validated["val_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert validated["val_acc"] == pytest.approx(float(accuracy))
    assert tested == {
        name.replace("val", "test"): pytest.approx(v) for name, v in validated.items()
    }


def test_predictions_are_classes_with_probabilities(bert: str, batch: dict[str, Tensor]) -> None:
    module = build(bert, num_labels=3)
    predictions = trainer().predict(module, loader(batch, 4, 2))
    assert predictions is not None
    probabilities = torch.cat([part["probabilities"] for part in predictions])
    assert probabilities.shape == (6, 3)
    assert torch.allclose(probabilities.sum(-1), torch.ones(6))
    classes = torch.cat([part["prediction"] for part in predictions])
    assert torch.equal(classes, probabilities.argmax(-1))


def test_regression_learns_scores(bert: str, batch: dict[str, Tensor]) -> None:
    scores = {**batch, "labels": torch.tensor([0.0, 1.5, 4.0, 2.5, 5.0, 3.0])}
    module = build(bert, num_labels=1, task="stsb", lr=0.02)
    trainer(max_epochs=10).fit(module, loader(scores, 6))
    (validated,) = trainer().validate(module, loader(scores, 6), verbose=False)
    assert set(validated) == {"val_loss", "val_pearson", "val_spearman"}
    (prediction,) = trainer().predict(module, loader(scores, 6)) or []
    assert set(prediction) == {"prediction"}
    assert prediction["prediction"].shape == (6,)
    error = (prediction["prediction"] - scores["labels"]).square().mean()
    assert validated["val_loss"] == pytest.approx(float(error), rel=1e-4)


def test_multirc_is_judged_by_whole_questions(bert: str, batch: dict[str, Tensor]) -> None:
    module = build(bert, task="multirc")
    (prediction,) = trainer().predict(module, loader(batch, 6)) or []
    right = torch.tensor([True, True, False, True, False, True])
    labels = torch.where(right, prediction["prediction"], 1 - prediction["prediction"])
    rows = {**batch, "labels": labels, "group": ["a", "b", "b", "c", "d", "a"]}
    found = DataLoader([rows], batch_size=None)  # type: ignore[arg-type]
    (validated,) = trainer().validate(module, found, verbose=False)
    assert set(validated) == {"val_loss", "val_acc", "val_f1a", "val_em"}
    assert validated["val_em"] == 0.5 and validated["val_acc"] == pytest.approx(4 / 6)
    assert module.score(rows).tolist() == right.float().tolist()
    assert trainer().predict(module, found) is not None


def test_same_seed_same_start_and_the_config_is_left_alone(bert: str) -> None:
    config = peft.LoraConfig(r=4, target_modules=["query"])
    before = deepcopy(config)
    torch.manual_seed(3)
    first = SequenceClassifier(bert, config)
    torch.manual_seed(3)
    second = SequenceClassifier(bert, config)
    assert config == before
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_fresh_pooler_trains_unless_the_method_replaces_it(bert: str) -> None:
    def trained(method: str) -> list[str]:
        module = build(bert, method)
        return [n for n, p in module.named_parameters() if p.requires_grad and "pooler" in n]

    assert [name.rsplit(".", 1)[1] for name in trained("lora")] == ["weight", "bias"]
    assert all("tt_adapter" in name for name in trained("tt-classifier"))
    assert build(bert, "lora").fresh_parameters == 32 * 32 + 32 + 32 * 2 + 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_labels": 0}, "num_labels"),
        ({"num_labels": 2, "task": "stsb"}, "exactly 1"),
        ({"peft": peft.LoraConfig(target_modules=["nope"])}, "LoraConfig"),
        ({"peft": TTAdapterConfig(target_modules=["nope"])}, "nope"),
        ({"peft": TTAdapterConfig(rank=500)}, "rank"),
    ],
)
def test_what_does_not_fit_is_a_config_error(bert: str, changes: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        SequenceClassifier(bert, **changes)
    assert "\n" not in str(caught.value)


def test_a_real_decoder_learns(llama_dir: Any) -> None:
    module = build(str(llama_dir), "tt", lr=0.01)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 512, (8, 12), generator=generator)
    mask = torch.ones_like(ids)
    ids[:4, 6:], mask[:4, 6:] = module.model.config.pad_token_id, 0
    rows = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(8) % 2}
    trainer(max_epochs=15).fit(module, loader(rows, 8))
    (validated,) = trainer().validate(module, loader(rows, 3, 5), verbose=False)
    assert validated["val_acc"] == 1.0


def test_score_of_each_example(bert: str, batch: dict[str, Tensor]) -> None:
    module = build(bert).eval()
    logits = module.model(**batch).logits
    rows = zip(logits, batch["labels"], strict=True)
    assert module.score(batch).tolist() == [float(row.argmax() == label) for row, label in rows]
    regression = build(bert, num_labels=1, task="stsb").eval()
    scores = {**batch, "labels": torch.linspace(0, 5, 6)}
    predicted = regression.model(**batch | {"labels": None}).logits[:, 0]
    errors = [-((p - y) ** 2).item() for p, y in zip(predicted, scores["labels"], strict=True)]
    torch.testing.assert_close(regression.score(scores).tolist(), errors)
