"""Four scripted silos, and a server that runs in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from fedtt_lightning.callbacks.parts import trainable_parameters
from fedtt_lightning.federation import RotatingFactor, UniformSampler
from fedtt_lightning.silo.agreement import agreement
from fedtt_lightning.silo.direct_transport import DirectTransport
from fedtt_lightning.silo.serve_settings import ServeSettings
from fedtt_lightning.silo.server_exchange import ServerExchange
from silo.scripted_silo import ScriptedSilo, expected
from toy_run import ROUNDS, Record, make_run

ALL = [0, 1, 2, 3]


class Noted(Callback):
    """What a simulation of one round tells: its settings, sizes and first adapter."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.settings = agreement(trainer)


def simulate(folder: Path) -> tuple[dict[str, str], list[int]]:
    """Return settings and sizes as a simulation of one round tells them."""
    noted = Noted()
    run = make_run(folder, noted, federation={"sampler": None})
    trainer, module, data, _ = run
    trainer.limit_val_batches = 0
    trainer.fit(module, datamodule=data)
    return noted.settings, data.clients.sizes.tolist()


class Federation:
    """Four scripted silos, and a server that runs in this process."""

    def __init__(self, folder: Path, settings: dict[str, str], examples: list[int]) -> None:
        self.folder, self.examples = folder, examples
        self.settings = settings
        self.sockets = [str(folder / f"silo-{client}") for client in ALL]
        self.silos = [self.silo(client) for client in ALL]

    def silo(self, client: int) -> ScriptedSilo:
        silo = ScriptedSilo(Path(self.sockets[client]), client, self.examples, self.settings)
        silo.tensors = dict(self.start())
        return silo

    def start(self) -> dict[str, Tensor]:
        module = make_run(self.folder)[1]
        return {name: p.detach().clone() for name, p in trainable_parameters(module).items()}

    def serve(
        self,
        *extra: Callback,
        rounds: int = ROUNDS,
        federation: dict[str, Any] | None = None,
        **settings: Any,
    ) -> tuple[dict[str, Tensor], Record]:
        for silo in self.silos:
            silo.here.settings["trainer.max_epochs"] = f"{rounds} rounds"
        options: dict[str, Any] = {"round_deadline": 10, "join_timeout": 10, **settings}
        serve = ServeSettings(4, self.sockets, **options)
        exchange = ServerExchange(serve, lambda: DirectTransport(self.sockets, 1 << 20))
        options = {"sampler": UniformSampler(), **(federation or {})}
        folder = self.folder / "server"
        run = make_run(folder, *extra, federation=options, max_epochs=rounds)
        trainer, module, data, record = run
        trainer.callbacks.insert(0, exchange)
        trainer.fit(module, datamodule=data, ckpt_path="last")
        return {n: p.detach() for n, p in trainable_parameters(module).items()}, record

    def expected(self, answered: list[list[int]]) -> dict[str, Tensor]:
        start = self.start()
        schedule = RotatingFactor()
        trained = lambda round: schedule.trained(tuple(start), round, 11)  # noqa: E731
        return expected(start, self.examples, trained, answered)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(torch.allclose(found[n], wanted[n], rtol=0, atol=1e-12) for n in wanted)


class Between(Callback):
    """Does something when a round has ended."""

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        self.actions = actions

    def on_round_end(self, trainer: Trainer, module: Any, plan: Any) -> None:
        self.actions.get(plan.round, lambda: None)()
