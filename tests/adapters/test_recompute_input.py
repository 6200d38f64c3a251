"""`recompute_input` changes what a whole model keeps for backward, and nothing else."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

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
