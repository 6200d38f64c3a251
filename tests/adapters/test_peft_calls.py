"""What PEFT offers for a model with adapters: saving, several of them, switching off, unloading."""

import copy
import json

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

from fedtt_lightning.adapters import TTAdapter, TTAdapterConfig, TTAdapterModel
from fedtt_lightning.errors import ConfigError
from tiny_models import batch, classifier

OPTIONS = [
    {},
    {"tt_classifier": True, "train_layernorms": True, "task_type": "SEQ_CLS"},
    {"train_layernorms": True, "task_type": "SEQ_CLS", "use_bias": False},
    {"tt_classifier": True, "activation": "silu", "scaling": 0.5, "up_modes": [8, 4, 8]},
    {"modules_to_save": ["word_embeddings"], "target_modules": ["output.dense"]},
    {"target_modules": r".*layer\.1\.output\.dense", "task_type": "SEQ_CLS"},
]


def logits(model):
    with torch.no_grad():
        return model(**batch()).logits


def trained(family="bert", seed=0, **options):
    """A model after steps that moved every trainable tensor, and its base as it was."""
    base = classifier(family, seed)
    model = get_peft_model(base, TTAdapterConfig(rank=3, bottleneck=8, init="loretta", **options))
    model.eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for _ in range(2):
        model(**batch()).loss.backward()
        optimizer.step()
    moved = {
        n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])
    }
    assert moved == set(before)
    return model


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_saved_and_loaded_it_computes_the_same(family, options, tmp_path):
    if family == "distilbert" and "target_modules" in options:
        options = options | {"target_modules": ["ffn.lin2"]}
    model = trained(family, **options)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(classifier(family), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    assert not any(p.requires_grad for p in loaded.parameters())

    again = PeftModel.from_pretrained(classifier(family), tmp_path, is_trainable=True)
    names = {n for n, p in again.named_parameters() if p.requires_grad}
    assert names == {n for n, p in model.named_parameters() if p.requires_grad}
    # Nothing that stays frozen is in the file.
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert len(list(file.keys())) == len(names)


def test_names_are_those_of_the_contract():
    model = trained(tt_classifier=True)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    block = "base_model.model.bert.encoder.layer.0.output.dense.tt_adapter.default."
    cores = ["down_core_0", "down_core_1", "down_core_2", "up_core_0", "up_core_1", "up_core_2"]
    assert {n.removeprefix(block) for n in names if n.startswith(block)} == {
        *cores,
        "down_bias",
        "up_bias",
    }
    head = "base_model.model.bert.pooler.dense.tt_adapter.default."
    assert {n.removeprefix(head) for n in names if n.startswith(head)} == {
        *(f"core_{i}" for i in range(4)),
        "bias",
    }


@pytest.mark.parametrize("options", OPTIONS)
def test_config_survives_its_file(options, tmp_path):
    config = TTAdapterConfig(rank=4, dropout=0.1, **copy.deepcopy(options))
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "TT_ADAPTER"
    assert PeftConfig.from_pretrained(tmp_path) == config


def test_a_config_can_be_used_again():
    config = TTAdapterConfig(
        rank=3, bottleneck=8, train_layernorms=True, tt_classifier=True, task_type="SEQ_CLS"
    )
    small = get_peft_model(classifier("bert"), config)
    large = get_peft_model(classifier("bert", num_hidden_layers=3), config)
    count = [sum(p.requires_grad for p in model.parameters()) for model in (small, large)]
    assert count[1] - count[0] == 2 * 8 + 2 * 2


@pytest.mark.parametrize("options", OPTIONS[:3])
def test_switched_off_and_unloaded_it_is_the_base_model(options):
    base_logits = logits(classifier("bert"))
    model = trained(**options)
    assert not torch.allclose(logits(model), base_logits)
    with model.disable_adapter():
        assert torch.equal(logits(model), base_logits)
    after = logits(model)
    assert not torch.allclose(after, base_logits)
    assert not any(isinstance(m, TTAdapter) for m in model.unload().modules())


def test_two_adapters_and_back():
    model = trained()
    first = logits(model)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    model.add_adapter("second", TTAdapterConfig(rank=2, bottleneck=16, init="loretta"))
    assert torch.equal(logits(model), first)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == names
    model.set_adapter("second")
    assert not torch.allclose(logits(model), first)
    assert {
        n for n, p in model.named_parameters() if p.requires_grad and ".second." not in n
    } == set()
    model(**batch()).loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if ".second." in n)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == names
    model.delete_adapter("second")
    assert torch.equal(logits(model), first)
    assert not any(".second." in n for n, _ in model.named_parameters())


def test_merging_is_refused_and_nothing_changes():
    model = trained()
    before = logits(model)
    for call in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ConfigError, match="non-linearity"):
            call()
    assert torch.equal(logits(model), before)
    assert isinstance(model.base_model, TTAdapterModel)


def test_half_precision_models_get_float32_cores():
    model = get_peft_model(
        classifier("bert").bfloat16(), TTAdapterConfig(rank=3, bottleneck=8, init="loretta")
    )
    assert {p.dtype for n, p in model.named_parameters() if "tt_adapter" in n} == {torch.float32}
    model(**batch()).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_float64_models_stay_float64():
    model = get_peft_model(classifier("bert").double(), TTAdapterConfig(rank=3, bottleneck=8))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float64}


def test_dropout_acts_in_training_only():
    model = get_peft_model(
        classifier("bert"), TTAdapterConfig(rank=3, bottleneck=8, init="loretta", dropout=0.5)
    )
    model.eval()
    assert torch.equal(logits(model), logits(model))
    for module in model.modules():
        if isinstance(module, TTAdapter):
            module.train()
    assert not torch.equal(logits(model), logits(model))


def test_gradient_checkpointing_of_the_backbone_changes_nothing():
    def gradients(checkpointing):
        torch.manual_seed(0)
        model = get_peft_model(
            classifier("bert"), TTAdapterConfig(rank=3, bottleneck=8, init="loretta")
        ).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch()).loss.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    pairs = zip(gradients(False), gradients(True), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.real
def test_on_real_weights(bert_dir, tmp_path):
    base = AutoModelForSequenceClassification.from_pretrained(bert_dir)
    model = get_peft_model(base, TTAdapterConfig(task_type="SEQ_CLS", tt_classifier=True)).eval()
    assert sum(isinstance(m, TTAdapter) for m in model.modules()) == 4
    ids = torch.randint(5, 8000, (2, 9), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    model.save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert config.base_model_name_or_path == str(bert_dir)
