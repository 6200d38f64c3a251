"""Modules that compute, for each client's examples, with that client's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fedtt_lightning.adapters import DenseAdapter, TTAdapter, TTLinear
from fedtt_lightning.adapters.stacked import embedding, layer_norm, linear
from fedtt_lightning.cohort.random import ClientRandom
from fedtt_lightning.cohort.splitting import join, split
from fedtt_lightning.errors import FederationError

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_OURS = (TTAdapter, TTLinear, DenseAdapter)  # whose own forward takes stacked parameters


@dataclass(frozen=True)
class Clients:
    """What one forward pass of several clients needs.

    Attributes:
        stacks: (clients, *shape) for each name that trains; all others are everybody's.
        sizes: examples of each client in the batch, in order.
        random: draws for one client, where it is asked for.
    """

    stacks: Mapping[str, Tensor]
    sizes: Sequence[int]
    random: ClientRandom

    @property
    def even(self) -> bool:
        return len(set(self.sizes)) == 1


class ClientModules:
    """Lets the modules of a model that hold trained parameters serve several clients at once.

    Linear layers, TT and dense adapters, layer norms and embeddings compute with stacked
    parameters where all clients have as many examples; any other module runs client by client. All
    that have no trained parameter stay as they are, and so does the model when nothing is attached.

    Args:
        module: the model.
        tensors: its parameters that may train, by name.
    """

    def __init__(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        names = {id(tensor): name for name, tensor in tensors.items()}
        self._parts = [_Part(path, part, names) for path, part in _holders(module, names).items()]

    @contextmanager
    def attached(self, clients: Clients) -> Iterator[None]:
        """Replace the modules' forward in place, and put it back afterwards."""
        try:
            for part in self._parts:
                part.attach(clients)
            yield
        finally:
            for part in self._parts:
                part.detach()


class _Part:
    """A module with its trained parameters, those of modules inside included if it needs them."""

    def __init__(self, path: str, module: nn.Module, names: Mapping[int, str]) -> None:
        self._path, self._module = path, module
        self._takes_stacks = _takes_stacks(module)
        self._is_adapter = isinstance(module, TTAdapter)
        inside = [module] if self._takes_stacks else list(module.modules())
        self._entries = [
            (owner, key, parameter, names.get(id(parameter), ""))
            for owner in inside
            for key, parameter in owner._parameters.items()
            if parameter is not None and (self._takes_stacks or id(parameter) in names)
        ]
        self._forward: Callable[..., Any] = module.forward
        self._own: Any = None
        self._clients: Clients | None = None

    def attach(self, clients: Clients) -> None:
        self._own = self._module.__dict__.get("forward")
        self._forward, self._clients = self._module.forward, clients
        self._module.__dict__["forward"] = self.forward

    def detach(self) -> None:
        if self._clients is None:
            return
        self._clients = None
        if self._own is None:
            del self._module.__dict__["forward"]
        else:
            self._module.__dict__["forward"] = self._own

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self._clients is not None
        # What an adapter may keep in place of x, for all its rows: not for those of one client.
        whole = {"source": kwargs.pop("source")} if "source" in kwargs and self._is_adapter else {}
        if not any(name in self._clients.stacks for *_, name in self._entries):
            with self._holding(lambda parameter, _: parameter.detach()):
                return self._forward(*args, **kwargs, **whole)
        if self._clients.even and not kwargs and len(args) == 1 and self._takes_stacks:
            (x,) = args
            total = sum(self._clients.sizes)
            if isinstance(x, Tensor) and x.dim() and len(x) and len(x) % total == 0:
                return self._stacked(x, whole)
        return self._one_by_one(args, kwargs)

    def _stacked(self, x: Tensor, whole: Mapping[str, Any]) -> Tensor:
        assert self._clients is not None
        stacks, clients, module = self._clients.stacks, len(self._clients.sizes), self._module
        shared = type(module) is nn.Linear  # which need not copy a weight that all have

        def of_all(parameter: Tensor, name: str) -> Tensor:
            if name in stacks:
                return stacks[name]
            value = parameter.detach()
            return value if shared else value.expand(clients, *value.shape)

        with self._holding(of_all):
            if isinstance(module, nn.Linear):
                return linear(x, module.weight, module.bias)
            if isinstance(module, nn.LayerNorm):
                shape = module.normalized_shape
                return layer_norm(x, shape, module.weight, module.bias, module.eps)
            if isinstance(module, nn.Embedding):
                return embedding(x, module.weight)
            result: Tensor = self._forward(x, **whole)
            return result

    def _one_by_one(self, args: Any, kwargs: Any) -> Any:
        assert self._clients is not None
        clients, sizes = self._clients, self._clients.sizes
        parts, divided = split((args, kwargs), sizes)
        own = {
            n: stack.unbind()
            for *_, n in self._entries
            if (stack := clients.stacks.get(n)) is not None
        }
        results = []
        for client, (some, named) in enumerate(parts):

            def of_one(parameter: Tensor, name: str, client: int = client) -> Tensor:
                return own[name][client] if name in own else parameter.detach()

            with self._holding(of_one), clients.random.client(client):
                results.append(self._forward(*some, **named))
        try:
            return join(results, sizes, divided)
        except FederationError as error:
            raise FederationError(
                f"{self._path or 'the module'} ({type(self._module).__name__}) is not computed for "
                f"each example of a batch ({error}), so it cannot have a client's own parameters: "
                "set federation.cohort_batch to 1, or freeze it"
            ) from None

    @contextmanager
    def _holding(self, value: Callable[[Tensor, str], Tensor]) -> Iterator[None]:
        """Let the module hold other tensors in place of its parameters."""
        try:
            for owner, key, parameter, name in self._entries:
                owner._parameters[key] = value(parameter, name)  # type: ignore[assignment]
            yield
        finally:
            for owner, key, parameter, _ in self._entries:
                owner._parameters[key] = parameter


def _holders(module: nn.Module, names: Mapping[int, str]) -> dict[str, nn.Module]:
    """Return the modules to replace by path: those with trained parameters of their own.

    Of a container, which is never called, it is the module around it.
    """
    modules = dict(module.named_modules())
    found: dict[str, nn.Module] = {}
    for path, part in modules.items():
        if not any(id(p) in names for p in part._parameters.values()):
            continue
        while isinstance(modules[path], _CONTAINERS) and path:
            path = path.rpartition(".")[0]
        found[path] = modules[path]
    whole = [path for path, part in found.items() if not _takes_stacks(part)]
    return {
        path: part
        for path, part in found.items()
        if not any(path != outer and _inside(path, outer) for outer in whole)
    }


def _inside(path: str, outer: str) -> bool:
    return not outer or path.startswith(f"{outer}.")


def _takes_stacks(module: nn.Module) -> bool:
    kind = type(module)
    if kind is nn.Embedding:
        assert isinstance(module, nn.Embedding)
        plain = module.padding_idx is None and module.max_norm is None
        return plain and not (module.scale_grad_by_freq or module.sparse)
    return kind in (nn.Linear, nn.LayerNorm, *_OURS)
