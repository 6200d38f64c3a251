"""SCAFFOLD: control variates that take each client's drift out of its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from fedtt_lightning.callbacks.client_store import ClientStore, open_store
from fedtt_lightning.callbacks.communication import find_communication
from fedtt_lightning.callbacks.fed_prox import FedProx
from fedtt_lightning.callbacks.federated_rounds import FederatedRounds, find_federation
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FederatedLoop, RoundPlan, RoundPlanner, Visit

Values = dict[str, Tensor]


class Scaffold(Callback):
    """Adds `c − c_i` to each client's gradients before every optimizer step, before clipping.

    Karimireddy et al., arXiv 1910.06378. A client's control variate becomes the mean of its raw
    gradients over the visit's optimizer steps, which is the paper's option II where that is
    defined, under SGD with a constant rate, and makes sense for any optimizer. The server's moves
    by `c ← c + 1/N · Σ (c_i⁺ − c_i)` over the round's clients, N being all clients there are. Both
    start at 0. Only tensors that train in a round are corrected, and their control variates
    changed; private ones have none. A client whose update is left out keeps its own. The paper
    weighs all clients the same: set `federation.weighting` to `equal`.

    With each visit a client also fetches `c` and sends `c_i⁺ − c_i` of the tensors that train, in
    their dtypes, which `Communication` counts. Clients' control variates lie in one small file a
    client and version (`ClientStore`), in a folder of the run's own, `dirpath/<run>`. A resumed run
    must find it where it was. Nobody removes it when the run is over: do it yourself once no
    checkpoint of the run is needed any more.

    Args:
        dirpath: folder of the runs' folders; `scaffold` in `default_root_dir` if not given.

    Raises:
        ConfigError: from `setup`, if no client ever comes back, or gradients and tensors would not
            mean the same from step to step and round to round.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self._forget()

    def _forget(self) -> None:
        self._store: ClientStore | None = None
        self._run: str | None = None
        self._round = -1
        self._server: Values = {}  # c, float64
        self._change: Values = {}  # sum of c_i⁺ − c_i over the round's clients so far, float64
        self._raw: Values = {}  # sum of the visit's raw gradients so far, float64
        self._steps: dict[str, int] = {}  # optimizer steps in that sum
        self._own: Values = {}  # c_i of the visit, in the parameters' dtypes
        self._correction: Values = {}  # c − c_i of what trains, in the parameters' dtypes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        federation = find_federation(trainer)
        if trainer.current_epoch == 0:
            self._forget()  # not the run of an earlier fit
        self._store = None
        _check(federation, trainer, self)

    def on_plan(self, trainer: Trainer, pl_module: LightningModule, planner: RoundPlanner) -> None:
        """Raise ConfigError if no client ever comes back to use its control variate."""
        rounds = trainer.max_epochs
        if rounds is None or rounds < 0 or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        seen: set[int] = set()
        for round in range(rounds):
            clients = {visit.client for visit in planner.plan(round).visits}
            if seen & clients:
                return
            seen |= clients
        raise ConfigError(
            f"federation.sampler brings no client back within trainer.max_epochs={rounds} rounds, "
            "so none would ever use its control variate: choose more clients a round or more "
            "rounds, or use FedProx, which needs no memory, in place of Scaffold"
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no client's control variate, or go on with those of the checkpoint's run."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return  # of a single round, in which nobody comes back: leave the folder alone
        folder = Path(self.dirpath or Path(trainer.default_root_dir) / "scaffold")
        self._store = open_store(trainer, self, folder, self._run, self._round)
        self._run = self._store.run

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        self._round = plan.round
        self._change = {}
        loop = find_federation(trainer).loop
        self._prepare(loop)
        answered = (*plan.late, *plan.unused)
        self._count(trainer, loop, len(answered) + len(plan.dropped), len(answered))

    def on_client_start(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit, resumed: bool
    ) -> None:
        """Look up the client's control variate, and so what is added to its gradients."""
        loop = find_federation(trainer).loop
        self._prepare(loop)
        self._own = self._values(loop, visit)
        names = loop.travelling.names
        self._correction = {
            name: (self._server[name] - self._own[name].double()).to(loop.tensors[name].dtype)
            for name in names
        }
        if not resumed:
            self._raw = {name: torch.zeros_like(self._server[name]) for name in names}
            self._steps = dict.fromkeys(names, 0)

    def _prepare(self, loop: FederatedLoop) -> None:
        """Have the server's control variate, and what a checkpoint held, where the tensors are."""
        for name in loop.schema.names:
            if name not in self._server and name not in loop.private:
                zeros = torch.zeros_like(loop.tensors[name].detach(), dtype=torch.float64)
                self._server[name] = zeros
        for values in (self._server, self._change, self._raw):
            for name, value in values.items():
                values[name] = value.to(loop.tensors[name].device)

    def _values(self, loop: FederatedLoop, visit: Visit) -> Values:
        """Return c_i as a client has it before a visit."""
        schema = loop.schema.select({*loop.schema.names} - loop.private)
        own = None
        if self._store is not None:
            own = self._store.load(visit.client, visit.round, schema)
        like = {name: loop.tensors[name].detach() for name in schema.names}
        return {
            name: torch.zeros_like(tensor) if own is None else own[name].to(tensor.device)
            for name, tensor in like.items()
        }

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        tensors = find_federation(trainer).loop.tensors
        steps = {id(param) for group in optimizer.param_groups for param in group["params"]}
        for name, correction in self._correction.items():
            param = tensors[name]
            if id(param) in steps:
                self._steps[name] += 1
                if param.grad is not None:
                    self._raw[name].add_(param.grad)
                    param.grad.add_(correction)

    def client_extra(
        self, trainer: Trainer, pl_module: LightningModule, visit: Visit
    ) -> dict[str, Tensor]:
        """Return the mean of the visit's raw gradients, float64."""
        means = {name: raw / max(self._steps[name], 1) for name, raw in self._raw.items()}
        self._raw, self._steps = {}, {}
        return means

    def on_client_end(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        """Keep the client's new control variate, unless its update was left out."""
        federation = find_federation(trainer)
        loop = federation.loop
        self._count(trainer, loop, 1, 1)
        own = self._own if federation.exchange is None else self._values(loop, visit)
        new = {name: value.to(own[name].dtype) for name, value in federation.extra.items()}
        if loop.counted is None:
            return
        if not all(bool(torch.isfinite(value).all()) for value in new.values()):
            rank_zero_warn(
                f"client {visit.client} keeps its control variate of before round "
                f"{visit.round + 1}: its gradients hold NaN or Inf"
            )
            return
        for name, value in new.items():
            sent = (value.double() - own[name].double()).to(value.dtype).double()
            self._change[name] = self._change[name] + sent if name in self._change else sent
        if self._store is not None:
            if trainer.is_global_zero:
                self._store.save(visit.client, visit.round, own | new)
            trainer.strategy.barrier("control variates")

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        """Move the server's control variate by what the clients sent, in a skipped round too."""
        clients = len(find_federation(trainer).loop.planner.sizes)
        for name, change in self._change.items():
            self._server[name] = self._server[name] + change / clients
        self._change = {}

    def _count(self, trainer: Trainer, loop: FederatedLoop, downloads: int, uploads: int) -> None:
        communication = find_communication(trainer)
        if communication is not None:
            size = loop.travelling.message_nbytes
            communication.count_download(downloads * size)
            communication.count_upload(uploads * size)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._store is not None:
            self._store.note_checkpoint(self._round, find_federation(trainer).loop.is_open)

    def state_dict(self) -> dict[str, Any]:
        return {
            "run": self._run,
            "round": self._round,
            "server": dict(self._server),
            "change": dict(self._change),
            "raw": {name: value.clone() for name, value in self._raw.items()},
            "steps": dict(self._steps),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._run, self._round = state_dict["run"], state_dict["round"]
        self._server, self._change = dict(state_dict["server"]), dict(state_dict["change"])
        self._raw, self._steps = dict(state_dict["raw"]), dict(state_dict["steps"])


def _check(federation: FederatedRounds, trainer: Trainer, scaffold: Scaffold) -> None:
    """Raise ConfigError for what control variates cannot go with."""
    if federation.ranks is not None or federation.aggregation.replaces_factors:
        name = type(federation.aggregation).__name__
        raise ConfigError(
            f"Scaffold's control variates belong to tensors that last, but federation.aggregation "
            f"{name} makes factors anew each round: use WeightedMean without federation.ranks"
        )
    if trainer.precision == "16-mixed":
        raise ConfigError(
            "trainer.precision is 16-mixed, which leaves out steps whose gradients overflow, but "
            "Scaffold needs them all: use bf16-mixed or 32-true"
        )
    order: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(earlier, FedProx) for earlier in order[: order.index(scaffold)]):
        raise ConfigError(
            "trainer.callbacks names FedProx before Scaffold, whose control variates would take "
            "its pull for a part of the clients' gradients: name it after"
        )
