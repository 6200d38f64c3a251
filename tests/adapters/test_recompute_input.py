"""`recompute_input` changes what a whole model keeps for backward, and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import Tensor, nn

from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from tiny_models import batch, classifier


def run(family: str, recompute_input: bool) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of all that trains, and how many adapters keep their input."""
    torch.manual_seed(0)
    config = TTAdapterConfig(rank=3, bottleneck=8, init="loretta", recompute_input=recompute_input)
    model = get_peft_model(classifier(family), config).double().train()
    model.enable_input_require_grads()
    loss = model(**batch()).loss
    count = _keeping(loss.grad_fn)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found, count


def _keeping(root: torch.autograd.graph.Node | None) -> int:
    """Count adapters in a graph that keep their input."""
    nodes, seen, count = [root], set(), 0
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        if node.name() == "_AdapterBackward":
            count += node.rebuild is None  # type: ignore[attr-defined]  # what backward is given
    return count


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "llama", "mistral", "opt"])
def test_same_gradients_and_less_kept(family: str) -> None:
    expected, keeping = run(family, False)
    found, without = run(family, True)
    assert keeping > 0 and without == 0  # one a block: the one after the wide linear
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_refused_for_dense_adapters() -> None:
    with pytest.raises(ConfigError, match="recompute_input has no effect"):
        TTAdapterConfig(tensorized=False, recompute_input=True)


@pytest.mark.parametrize("where", ["forward of the linear", "hook on the adapter"])
def test_what_stands_between_is_seen(where: str) -> None:
    """Gradients are those of what was computed: the linear's output, three times as large."""
    torch.manual_seed(0)
    options = {"rank": 3, "bottleneck": 8, "init": "loretta", "target_modules": ["0"]}
    model = get_peft_model(
        nn.Sequential(nn.Linear(16, 24)), TTAdapterConfig(**options, recompute_input=True)
    ).double()
    layer = model.base_model.model[0]
    linear, adapter = layer.base_layer, layer.tt_adapter["default"]
    if where == "forward of the linear":
        plain = linear.forward
        linear.forward = lambda x: 3 * plain(x)  # as libraries do that move weights
    else:
        adapter.register_forward_pre_hook(lambda _, inputs: (3 * inputs[0],))
    x = torch.randn(5, 16).double()
    found = torch.autograd.grad(layer(x).square().sum(), list(adapter.parameters()))
    by_hand = 3 * F.linear(x, linear.weight, linear.bias)
    expected = torch.autograd.grad(adapter.adapt(by_hand).square().sum(), adapter.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
