"""The dense adapter is a pair of nn.Linear with a residual, in the places of the TT adapters."""

import pytest
import torch
import transformers as hf
from opacus.grad_sample import GradSampleHooks
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn

from fedtt_lightning.adapters import DenseAdapter, TTAdapter, TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from tiny_models import batch, classifier

ACTIVATIONS = {"relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU(), "tanh": nn.Tanh()}


def filled(**options):
    """A float64 adapter of 12 features and bottleneck 5 whose every value is random."""
    adapter = DenseAdapter(12, 5, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


def linears(adapter):
    """nn.Linear modules with the adapter's values."""
    values = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    pair = []
    for side in ("down", "up"):
        own = {n.removeprefix(f"{side}_"): v for n, v in values.items() if n.startswith(side)}
        linear = nn.Linear(*reversed(own["weight"].shape), bias="bias" in own).double()
        linear.load_state_dict(own)
        pair.append(linear)
    return pair


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_two_linears(activation, bias):
    adapter = filled(activation=activation, bias=bias, scaling=0.5)
    down, up = linears(adapter)
    x = torch.randn(3, 4, 12, dtype=torch.float64)
    expected = x + 0.5 * up(ACTIVATIONS[activation](down(x)))
    y = adapter(x)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    y.square().sum().backward()
    expected.square().sum().backward()
    for side, linear in (("down", down), ("up", up)):
        for name, parameter in linear.named_parameters():
            ours = adapter.get_parameter(f"{side}_{name}").grad
            torch.testing.assert_close(ours, parameter.grad, rtol=1e-12, atol=1e-12)
    assert len(list(adapter.parameters())) == (4 if bias else 2)


def test_starts_as_the_identity_and_below_as_a_linear():
    torch.manual_seed(1)
    adapter = DenseAdapter(400, 300)
    linear = nn.Linear(400, 300)
    x = torch.randn(5, 400)
    assert torch.equal(adapter(x), x)
    for ours, theirs in ((adapter.down_weight, linear.weight), (adapter.down_bias, linear.bias)):
        assert ours.abs().max() <= 1 / 20
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.15)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.1)
    for _ in range(2):
        adapter(x).square().sum().backward()
        optimizer.step()
    assert adapter.down_weight.grad.abs().max() > 0


def test_dropout_is_that_of_the_activation():
    adapter = filled(dropout=0.5)
    down, up = linears(adapter)
    x = torch.randn(6, 12, dtype=torch.float64)
    torch.manual_seed(4)
    y = adapter(x)
    torch.manual_seed(4)
    hidden = nn.functional.dropout(down(x).relu(), 0.5)
    torch.testing.assert_close(y, x + up(hidden), rtol=1e-13, atol=1e-13)
    adapter.eval()
    torch.testing.assert_close(adapter(x), x + up(down(x).relu()), rtol=1e-13, atol=1e-13)


def test_opacus_gives_gradients_of_single_examples():
    adapter = filled()
    x = torch.randn(5, 3, 12, dtype=torch.float64)
    hooks = GradSampleHooks(adapter, loss_reduction="sum")
    adapter(x).square().sum().backward()
    sampled = {name: p.grad_sample.clone() for name, p in adapter.named_parameters()}
    hooks.cleanup()
    for i in range(5):
        adapter.zero_grad()
        adapter(x[i : i + 1]).square().sum().backward()
        for name, p in adapter.named_parameters():
            torch.testing.assert_close(sampled[name][i], p.grad, rtol=1e-9, atol=1e-11)


def sizes(config, **options):
    """Names and sizes of what trains, from real shapes with no weight ever held."""
    with torch.device("meta"):
        model = hf.AutoModelForSequenceClassification.from_config(config)
        adapted = get_peft_model(model, TTAdapterConfig(tensorized=False, **options))
    return {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", [hf.BertConfig, hf.RobertaConfig])
def test_counts(kind):
    base = kind(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    pair, head = 2 * 768 * 64 + 768 + 64, 768 * 768 + 768 + 2 * 768 + 2
    assert sum(sizes(base).values()) == 24 * pair + head == 2_971_394
    assert sum(sizes(base, train_layernorms=True).values()) == 24 * pair + head + 38_400
    narrow = sizes(base, bottleneck=8, use_bias=False)
    assert sum(n for name, n in narrow.items() if "tt_adapter" in name) == 24 * 2 * 768 * 8


def logits(model):
    with torch.no_grad():
        return model(**batch()).logits


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "llama"])
def test_same_places_as_tensor_trains_and_saved_and_loaded(family, tmp_path):
    options = {"bottleneck": 8, "activation": "gelu", "task_type": "SEQ_CLS"}
    tensor_trains = get_peft_model(classifier(family), TTAdapterConfig(rank=2, **options))
    base = logits(classifier(family))
    model = get_peft_model(classifier(family), TTAdapterConfig(tensorized=False, **options)).eval()
    places = {name for name, m in tensor_trains.named_modules() if isinstance(m, TTAdapter)}
    assert {name for name, m in model.named_modules() if isinstance(m, DenseAdapter)} == places
    assert torch.equal(logits(model), base)

    def others(model):
        return {n for n, p in model.named_parameters() if p.requires_grad and "tt_ad" not in n}

    assert others(model) == others(tensor_trains)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for _ in range(2):
        model(**batch()).loss.backward()
        optimizer.step()
    assert all(not torch.equal(model.get_parameter(n), value) for n, value in before.items())

    model.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).tensorized is False
    loaded = PeftModel.from_pretrained(classifier(family), tmp_path).eval()
    assert torch.equal(logits(loaded), logits(model))
    with model.disable_adapter():
        assert torch.equal(logits(model), base)


def test_half_precision_models_get_float32_values():
    config = TTAdapterConfig(tensorized=False, bottleneck=8)
    model = get_peft_model(classifier("bert").bfloat16(), config)
    assert {p.dtype for n, p in model.named_parameters() if "tt_adapter" in n} == {torch.float32}
    model(**batch()).loss.backward()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tt_classifier": True}, "tt_classifier"),
        ({"rank": 4}, "rank"),
        ({"init": "loretta"}, "init"),
        ({"down_modes": [4, 4, 2]}, "down_modes"),
        ({"up_modes": [4, 4, 2]}, "up_modes"),
        ({"classifier_rank": 2}, "classifier_rank"),
    ],
)
def test_what_describes_tensor_trains_is_refused(options, named):
    with pytest.raises(ConfigError, match=named) as error:
        TTAdapterConfig(tensorized=False, **options)
    assert "\n" not in str(error.value)
