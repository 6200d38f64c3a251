"""Gradients of single examples: opacus's hooks, attached in place for one visit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opacus.grad_sample import GradSampleHooks
from opacus.grad_sample.grad_sample_module import promote_current_grad_sample
from torch import Tensor, nn
from torch.nn import Parameter

from fedtt_lightning.adapters import TTAdapter
from fedtt_lightning.errors import FederationError
from fedtt_lightning.privacy import grad_samplers  # noqa: F401  opacus shall know TTLinear
from fedtt_lightning.tensor_train import OnExamples

_LEFT_ON_PARAMETERS = ("grad_sample", "_current_grad_sample", "_forward_counter", "summed_grad")
_LEFT_ON_MODULES = ("activations", "max_batch_len", "ft_compute_sample_grad")
_SHOWN = 3


class PerExampleGradients:
    """Gives every trainable parameter of a module `grad_sample` (examples, *shape) in backward.

    Opacus's `GradSampleHooks` in place, without averaging: of a mean loss, `grad_sample` is the
    part of each example in the gradient. TT adapters hand over their own, in closed form, from the
    backward pass that they do anyway. Modules stay what they are; `detach` undoes it all.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._hooks: GradSampleHooks | None = _Hooks(module, loss_reduction="sum")
        self._hooked = [*self._hooks.iterate_submodules(module)]
        for part in module.modules():
            if isinstance(part, TTAdapter):
                part.per_example = _taker

    def check(self, parameters: Mapping[str, Parameter], examples: int) -> None:
        """Raise FederationError unless each parameter has a gradient of each of `examples`."""
        wrong = {}
        for name, parameter in parameters.items():
            found = getattr(parameter, "grad_sample", None)
            if not isinstance(found, Tensor):
                wrong[name] = "none" if found is None else "those of several backward passes"
            elif len(found) != examples:
                wrong[name] = f"gradients of {len(found)}"
        if wrong:
            first = [f"{name} has {what}" for name, what in list(wrong.items())[:_SHOWN]]
            more = f" and {len(wrong) - _SHOWN} more tensors" if len(wrong) > _SHOWN else ""
            raise FederationError(
                f"{len(wrong)} trainable tensors lack the gradient of each of the batch's "
                f"{examples} examples, without which a step is not private: {'; '.join(first)}"
                f"{more}. Freeze them, or choose a model.peft whose tensors lie in modules that "
                "are called, in train mode, once for a batch of examples"
            )

    def detach(self) -> None:
        """Remove the hooks and all that they left behind; a second call does nothing."""
        if self._hooks is None:
            return
        self._hooks.cleanup()
        self._hooks = None
        for part in self._module.modules():
            if isinstance(part, TTAdapter):
                vars(part).pop("per_example", None)
        for part in self._hooked:
            for name in _LEFT_ON_MODULES:  # also activations of a pass that was interrupted
                vars(part).pop(name, None)
        for parameter in self._module.parameters():
            for name in _LEFT_ON_PARAMETERS:
                vars(parameter).pop(name, None)


def recomputed(module: nn.Module) -> bool:
    """Tell whether a module, if it has parameters of its own, is run again for their gradients."""
    return type(module) not in GradSampleHooks.GRAD_SAMPLERS


class _Hooks(GradSampleHooks):
    def iterate_submodules(self, module: nn.Module) -> Iterator[nn.Module]:
        parts = super().iterate_submodules(module)
        return (part for part in parts if not isinstance(part, TTAdapter))


def _taker(parameters: Sequence[Any]) -> OnExamples:
    """Return what stores gradients as opacus's hooks do.

    Those of several uses in one forward pass are added, those of several passes make a list.
    """
    for parameter in parameters:
        if parameter is not None and parameter.requires_grad:
            parameter._forward_counter += 1

    def take(gradients: Sequence[Tensor | None]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter is None or gradient is None or not parameter.requires_grad:
                continue
            earlier = getattr(parameter, "_current_grad_sample", None)
            parameter._current_grad_sample = gradient if earlier is None else earlier + gradient
            parameter._forward_counter -= 1
            if parameter._forward_counter == 0:
                promote_current_grad_sample(parameter)

    return take
