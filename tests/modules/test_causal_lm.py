"""Training, evaluation and checkpoints of causal language models, against plain loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from answer_rows import Row, answer_rows, padded, plain_loss, token_by_token
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules import CausalLM
from fedtt_lightning.modules.decoder_inputs import check_fits
from quiet_trainer import quiet_trainer

METHODS: dict[str, Any] = {
    "tt": lambda: TTAdapterConfig(rank=2, bottleneck=8, init="loretta"),
    "lora": lambda: peft.LoraConfig(r=2),
    "all": lambda: None,
}


def build(folder: str, method: str = "tt", **options: Any) -> CausalLM:
    torch.manual_seed(7)
    return CausalLM(folder, METHODS[method](), **{"dtype": "float32", **options})


def loader(*parts: Sequence[Row]) -> DataLoader[Any]:
    return DataLoader([padded(part) for part in parts], batch_size=None)  # type: ignore[arg-type]


def trainer(folder: Path, **options: Any) -> Trainer:
    return quiet_trainer(folder, options.pop("max_epochs", 1), [], **options)


@pytest.mark.parametrize("method", METHODS)
def test_training_in_float64_equals_a_plain_loop(
    decoder: Callable[..., str], method: str, tmp_path: Path
) -> None:
    module = build(decoder("llama"), method, lr=0.01, weight_decay=0.1)
    plain = deepcopy(module.model).double()
    rows = answer_rows(6)
    trainer(tmp_path, max_epochs=3).fit(module, loader(rows[:4], rows[4:]))
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        for part in (rows[:4], rows[4:]):
            optimizer.zero_grad()
            plain_loss(plain, part).backward()
            optimizer.step()
    pairs = zip(module.model.named_parameters(), plain.parameters(), strict=True)
    for (name, ours), theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9, msg=name)


def test_perplexity_and_loss_of_an_epoch(decoder: Callable[..., str], tmp_path: Path) -> None:
    module = build(decoder("gpt2")).eval()
    rows = answer_rows(7, seed=2)
    parts = loader(rows[:5], rows[5:])
    (validated,) = trainer(tmp_path).validate(module, parts, verbose=False)
    by_row = [[-value for value in token_by_token(module.model, row)] for row in rows]
    tokens = [value for row in by_row for value in row]
    loss = sum(sum(row) / len(row) for row in by_row) / 7
    perplexity = torch.tensor(tokens).mean().exp()
    assert validated == pytest.approx({"val_loss": loss, "val_perplexity": float(perplexity)})
    (tested,) = trainer(tmp_path).test(module, parts, verbose=False)
    assert tested == pytest.approx({"test_loss": loss, "test_perplexity": float(perplexity)})
    predictions = trainer(tmp_path).predict(module, parts)
    assert predictions is not None
    found = [value for part in predictions for value in part["log_likelihood"]]
    assert found == pytest.approx([-sum(row) for row in by_row])
    assert [n for part in predictions for n in part["tokens"]] == [answer for _, answer in rows]
    scores = [-sum(row) / len(row) for row in by_row]
    assert module.score(padded(rows)).tolist() == pytest.approx(scores)


def test_loss_and_accuracy_of_candidates(decoder: Callable[..., str], tmp_path: Path) -> None:
    rows = answer_rows(6)
    batch = {
        **padded(rows),
        "owner": torch.tensor([0, 0, 1, 1, 2, 2]),
        "candidate": torch.tensor([0, 1, 0, 1, 0, 1]),
        "label": torch.tensor([1, 0, -1]),
        "answers": [["no", "yes"]] * 3,
    }
    module = build(decoder("llama"), task="boolq")
    data = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    (validated,) = trainer(tmp_path).validate(module, data, verbose=False)
    means = [
        sum(scores) / len(scores) for scores in (token_by_token(module.model, r) for r in rows)
    ]
    right = [means[1] > means[0], means[2] >= means[3]]
    expected = {"val_loss": -(means[1] + means[2]) / 2, "val_acc": sum(right) / 2}
    assert validated == pytest.approx(expected)
    (predicted,) = trainer(tmp_path).predict(module, data) or []
    chosen = [int(means[i + 1] > means[i]) for i in (0, 2, 4)]
    assert predicted["prediction"] == chosen
    assert predicted["answer"] == [["no", "yes"][choice] for choice in chosen]
    assert [len(scores) for scores in predicted["scores"]] == [2, 2, 2]


def test_loss_and_metrics_of_several_right_candidates(
    decoder: Callable[..., str], tmp_path: Path
) -> None:
    rows = answer_rows(5, seed=1)
    batch = {
        **padded(rows),
        "owner": torch.tensor([0, 0, 0, 1, 1]),
        "candidate": torch.tensor([0, 1, 2, 0, 1]),
        "label": torch.tensor([-1, -1]),
        "answers": [["Ann", "Bob", "Cy"], ["Oslo", "Rome"]],
        "gold": [["Bob", "Cy"], ["Rome"]],
    }
    module = build(decoder("llama"), task="record").eval()
    data = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    (validated,) = trainer(tmp_path).validate(module, data, verbose=False)
    a, b, c, d, e = (
        sum(scores) / len(scores) for scores in (token_by_token(module.model, r) for r in rows)
    )
    right = [max(b, c) > a, e > d]
    assert validated["val_loss"] == pytest.approx(-(max(b, c) + e) / 2)
    assert validated["val_em"] == pytest.approx(sum(right) / 2)
    assert module.score(batch).tolist() == [float(each) for each in right]


def gradients(module: CausalLM, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    module.train().zero_grad()
    torch.manual_seed(3)
    module.training_step(padded(rows), 0).backward()
    return {n: p.grad.double() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_checkpointing_changes_no_gradient(
    decoder: Callable[..., str], family: str, method: str
) -> None:
    """With dropout too, in GPT-2."""
    expected = gradients(build(decoder(family), method).double(), answer_rows(5))
    module = build(decoder(family), method, gradient_checkpointing=True).double()
    assert module.model.is_gradient_checkpointing
    torch.testing.assert_close(gradients(module, answer_rows(5)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("half", "bound"), [("bfloat16", 0.03), ("float16", 0.004)])
@pytest.mark.parametrize("autocast", [False, True], ids=["half weights", "autocast"])
def test_half_precision_stays_near(
    decoder: Callable[..., str], half: Any, bound: float, autocast: bool
) -> None:
    """Within the relative error of some four units of the last place, gradients in float32."""
    rows = answer_rows(8)
    exact = gradients(build(decoder("llama")).double(), rows)
    module = build(decoder("llama"), dtype="float32" if autocast else half)
    with torch.autocast("cpu", getattr(torch, half), enabled=autocast):
        found = gradients(module, rows)
    assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float32}
    error = torch.stack([(found[name] - value).norm() for name, value in exact.items()]).norm()
    assert 0 < error < bound * torch.stack([value.norm() for value in exact.values()]).norm()


@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_hold_what_trained_and_come_back(
    decoder: Callable[..., str], method: str, tmp_path: Path
) -> None:
    options = {"enable_checkpointing": True, "precision": "32-true"}
    module = build(decoder("llama"), method, lr=0.01, dtype="bfloat16")
    rows = answer_rows(4)
    trainer(tmp_path, **options).fit(module, loader(rows))
    (file,) = tmp_path.rglob("*.ckpt")
    saved = torch.load(file, weights_only=True)["state_dict"]
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained <= set(saved) and (method == "all") == ("model.lm_head.weight" in saved)
    fresh = CausalLM(decoder("llama"), METHODS[method](), dtype="bfloat16")
    (predicted,) = trainer(tmp_path, **options).predict(fresh, loader(rows), ckpt_path=file) or []
    assert predicted == module.eval().predict_step(padded(rows), 0)
    other = CausalLM(decoder("llama", rms_norm_eps=1e-3, vocab_size=61), METHODS[method]())
    with pytest.raises(ConfigError, match="checkpoint"):
        trainer(tmp_path, **options).predict(other, loader(rows), ckpt_path=file)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"generate_max_tokens": -1}, "generate_max_tokens"),
        ({"peft": peft.LoraConfig(target_modules=["nope"])}, "LoraConfig"),
        ({"peft": TTAdapterConfig(), "trainable": ["norm"]}, "model.trainable"),
        ({"trainable": []}, r"\^lm_head"),
        ({"trainable": ["nrm"]}, "did you mean.*norm"),
        ({"quantization": "4bit"}, "model.peft"),
        ({"gradient_checkpointing": True, "peft": peft.PrefixTuningConfig()}, "PrefixTuning"),
    ],
)
def test_what_does_not_fit_is_a_config_error(
    decoder: Callable[..., str], options: Any, named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        CausalLM(decoder("llama"), **options)
    assert "\n" not in str(caught.value)


def test_rows_longer_than_the_positions_are_one_line(decoder: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match=r"41 tokens.*40 positions.*data\.max_length"):
        build(decoder("gpt2")).training_step(padded([(torch.full((41,), 5), 2)]), 0)


def test_rows_too_long_are_found_before_training(decoder: Callable[..., str]) -> None:
    model = build(decoder("gpt2")).model
    check_fits(model, None)
    check_fits(model, 40)
    with pytest.raises(ConfigError, match=r"max_length 41 is more than the 40 positions"):
        check_fits(model, 41)


def test_patterns_train_in_float32_within_a_half_precision_model(
    decoder: Callable[..., str],
) -> None:
    module = build(decoder("llama"), "all", dtype="bfloat16", trainable=["layernorm", "lm_head"])
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == ("layernorm" in name or "lm_head" in name)
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
    found = gradients(module, answer_rows(4))
    exact = build(decoder("llama"), "all", trainable=["layernorm", "lm_head"]).double()
    for name, value in gradients(exact, answer_rows(4)).items():
        assert (found[name] - value).norm() < 0.05 * value.norm(), name
