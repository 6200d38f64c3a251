"""Server optimizers with memory: momentum, adaptive steps, and any optimizer of torch's kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.server import ServerOptimizer

OptimizerCallable = Callable[[Iterable], Optimizer]


class _ByName(ServerOptimizer):
    """Steps an optimizer over the tensors that trained in the round, its memory kept by name.

    The optimizer is built anew for each step, so that a tensor that did not train has no part in
    it: its momentum stands still, as do its weight decay and its count of steps.
    """

    def __init__(self) -> None:
        self._memory: dict[str, dict[str, Any]] = {}
        self._group: dict[str, Any] = {}

    @abstractmethod
    def build(self, params: list[Parameter]) -> Optimizer:
        """Return a new optimizer of one parameter group."""

    def step(self, old: AdapterState, update: AdapterState) -> AdapterState:
        names = update.schema.names
        values, updates = old.tensors(), update.tensors()
        params = [Parameter(values[name].to(torch.float64, copy=True)) for name in names]
        for name, param in zip(names, params, strict=True):
            param.grad = -updates[name].to(param)
        try:
            optimizer = self.build(params)
            fresh = optimizer.state_dict()["param_groups"]
            memory = {i: self._memory[name] for i, name in enumerate(names) if name in self._memory}
            optimizer.load_state_dict(
                {"state": memory, "param_groups": [{**fresh[0], **self._group}, *fresh[1:]]}
            )
            optimizer.step()
        except (TypeError, ValueError, RuntimeError) as error:
            raise FederationError(f"federation.server cannot take its step: {error}") from None
        for name, param in zip(names, params, strict=True):
            if param in optimizer.state:
                self._memory[name] = dict(optimizer.state[param])
        self._group = {
            key: value
            for key, value in optimizer.state_dict()["param_groups"][0].items()
            if key != "params" and not _equal(value, fresh[0].get(key))
        }
        stepped = {
            name: param.detach().to(values[name].dtype)
            for name, param in zip(names, params, strict=True)
        }
        return AdapterState.capture(stepped, old.schema)

    def state_dict(self) -> dict[str, Any]:
        return {"memory": _copy(self._memory), "group": _copy(self._group)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._memory = {
            name: {key: _count_on_cpu(value) for key, value in memory.items()}
            for name, memory in state.get("memory", {}).items()
        }
        self._group = dict(state.get("group", {}))


class TorchServer(_ByName):
    """Any `torch.optim` optimizer, or one of its kind, as the server's.

    Works on float64 copies of the global tensors, with minus the aggregated update as gradient.
    In YAML `optimizer` is a `class_path` with `init_args`, without its `params`.

    Args:
        optimizer: makes the optimizer from a list of parameters.

    Raises:
        ConfigError: from `check`, for settings it rejects, or if it needs a closure.
    """

    def __init__(self, optimizer: OptimizerCallable) -> None:
        super().__init__()
        self.optimizer = optimizer

    def __repr__(self) -> str:
        """Name the optimizer's class, since what makes it is some function."""
        kind = type(self.build([Parameter(torch.zeros(1, 1))])).__name__
        return f"{type(self).__name__}({kind})"

    def check(self, schema: AdapterSchema) -> None:
        shapes = sorted({spec.shape for spec in schema.specs})
        params = [Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
        for param in params:
            param.grad = torch.ones_like(param)
        try:
            self.build(params).step()
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise ConfigError(
                f"federation.server.optimizer cannot be used: {reason}. It must be an optimizer "
                "that steps with gradients alone, such as torch.optim.SGD or torch.optim.Adam"
            ) from None

    def build(self, params: list[Parameter]) -> Optimizer:
        return self.optimizer(params)


class FedAvgM(_ByName):
    """Server momentum: `v ← momentum·v + Δ`, `x ← x + lr·v` with Δ the aggregated update.

    Hsu et al., arXiv 1909.06335; it is `torch.optim.SGD` with momentum and no dampening, as in
    Flower. The first `v` is the first Δ.

    Args:
        lr: server learning rate.
        momentum: share of the old direction that is kept, from 0 to below 1.
    """

    def __init__(self, lr: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr = lr
        self.momentum = momentum

    def check(self, schema: AdapterSchema) -> None:
        _check_positive("lr", self.lr)
        _check_share("momentum", self.momentum)

    def build(self, params: list[Parameter]) -> Optimizer:
        return SGD(params, lr=self.lr, momentum=self.momentum)


class _Adaptive(_ByName):
    """Algorithm 2 of Reddi et al., arXiv 2003.00295; subclasses name the line of `v`."""

    kind: Literal["adagrad", "adam", "yogi"]

    def __init__(self, lr: float, beta1: float, beta2: float, tau: float) -> None:
        super().__init__()
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.tau = tau

    def check(self, schema: AdapterSchema) -> None:
        _check_positive("lr", self.lr)
        _check_share("beta1", self.beta1)
        _check_share("beta2", self.beta2)
        _check_positive("tau", self.tau)

    def build(self, params: list[Parameter]) -> Optimizer:
        return _Algorithm2(params, self.lr, self.beta1, self.beta2, self.tau, self.kind)


class FedAdagrad(_Adaptive):
    """Adaptive server steps: `v ← v + Δ²`, `x ← x + lr·m / (√v + tau)`, `m ← β₁·m + (1−β₁)·Δ`.

    Reddi et al., arXiv 2003.00295, Algorithm 2, with Δ the aggregated update: no bias correction,
    `m` starts at 0 and `v` at tau², the least the paper allows (Flower starts it at 0).

    Args:
        lr: server learning rate η; about the largest step of a value in a round.
        beta1: share of the old direction that is kept; 0, as in the paper, keeps none.
        tau: degree of adaptivity; small next to √v is fully adaptive, large is not at all.
    """

    kind = "adagrad"

    def __init__(self, lr: float = 1e-2, beta1: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(lr, beta1, 0.0, tau)


class FedAdam(_Adaptive):
    """Adaptive server steps as `FedAdagrad` takes them, but `v ← β₂·v + (1−β₂)·Δ²`.

    Reddi et al., arXiv 2003.00295, Algorithm 2: `v` follows the aggregated update Δ and not `m`,
    without bias correction, as in Flower; `TorchServer` with `torch.optim.Adam` corrects for bias.

    Args:
        lr: server learning rate η; about the largest step of a value in a round.
        beta1: share of the old direction that is kept.
        beta2: share of the old squares that is kept.
        tau: degree of adaptivity; small next to √v is fully adaptive, large is not at all.
    """

    kind = "adam"

    def __init__(
        self, lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
    ) -> None:
        super().__init__(lr, beta1, beta2, tau)


class FedYogi(_Adaptive):
    """Adaptive server steps as `FedAdam` takes them, but `v ← v − (1−β₂)·Δ²·sign(v − Δ²)`.

    Reddi et al., arXiv 2003.00295, Algorithm 2, as in Flower; TensorFlow Federated's Yogi also
    corrects for bias. `v` forgets large updates slowly.

    Args:
        lr: server learning rate η; about the largest step of a value in a round.
        beta1: share of the old direction that is kept.
        beta2: one minus how far the squares move `v`.
        tau: degree of adaptivity; small next to √v is fully adaptive, large is not at all.
    """

    kind = "yogi"

    def __init__(
        self, lr: float = 1e-2, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
    ) -> None:
        super().__init__(lr, beta1, beta2, tau)


class _Algorithm2(Optimizer):
    """The three formulas on gradients, which are minus Δ: only `m` and the step see the sign."""

    def __init__(
        self, params: list[Parameter], lr: float, beta1: float, beta2: float, tau: float, kind: str
    ) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "tau": tau})
        self.kind = kind

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        beta1, beta2, tau = group["beta1"], group["beta2"], group["tau"]
        for param in group["params"]:
            gradient, state = param.grad, self.state[param]
            if not state:
                state["m"] = torch.zeros_like(param)
                state["v"] = torch.full_like(param, tau**2)
            m, v = state["m"], state["v"]
            m.mul_(beta1).add_((1 - beta1) * gradient)
            square = gradient * gradient
            if self.kind == "adagrad":
                v.add_(square)
            elif self.kind == "adam":
                v.mul_(beta2).add_((1 - beta2) * square)
            else:
                v.sub_((1 - beta2) * square * torch.sign(v - square))
            param.sub_(group["lr"] * m / (v.sqrt() + tau))


def _check_positive(key: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigError(f"federation.server.{key} is {value}, but must be > 0")


def _check_share(key: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"federation.server.{key} is {value}, but must lie from 0 to below 1")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return bool(a == b)


def _copy(value: Any) -> Any:
    """Copy nested dicts of tensors: the optimizer goes on to change them in place."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


def _count_on_cpu(value: Any) -> Any:
    """Keep counts of steps where torch's optimizers make them; they move them if they need to."""
    return value.cpu() if isinstance(value, Tensor) and value.dim() == 0 else value
