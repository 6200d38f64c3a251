"""The toy run as a server of silos, which can be killed anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from fedtt_lightning.callbacks.exchange import VisitResult
from fedtt_lightning.federation import Int8, RoundPlan, UniformSampler
from fedtt_lightning.silo.direct_transport import DirectTransport
from fedtt_lightning.silo.serve_settings import ServeSettings
from fedtt_lightning.silo.server_exchange import ServerExchange
from private_run import private_run
from toy_run import kill_itself, make_run, outcome

PATIENCE = 20.0


class Killed(ServerExchange):
    """Kills its process before a round's requests, after its answers, or between two rounds."""

    kill: list[Any] | None = None
    pause: int | None = None  # a round that begins when the file `go` is there

    def share(self, trainer: Trainer, plan: RoundPlan) -> tuple[RoundPlan, RoundPlan]:
        if self.kill == ["between", plan.round]:
            kill_itself(trainer)
        return super().share(trainer, plan)

    def gather(
        self, trainer: Trainer, module: LightningModule, results: list[VisitResult]
    ) -> list[VisitResult]:
        round, go = trainer.current_epoch, Path(trainer.default_root_dir) / "go"
        end = monotonic() + PATIENCE
        while round == self.pause and not go.exists():
            assert monotonic() < end
            sleep(0.02)
        if self.kill == ["before", round]:
            kill_itself(trainer)
        gathered = super().gather(trainer, module, results)
        if self.kill == ["after", round]:
            kill_itself(trainer)
        return gathered


def toy(folder: Path, private: bool, upload: bool, **federation: Any) -> Any:
    """Return the toy run with all four clients in every round."""
    build = private_run if private else make_run
    options = {"sampler": UniformSampler(), "upload": Int8() if upload else None}
    return build(folder, federation={**options, **federation})


def run_server(
    folder: Path,
    sockets: list[str],
    private: bool = False,
    upload: bool = False,
    kill: list[Any] | None = None,
    pause: int | None = None,
    **settings: Any,
) -> None:
    """Serve, and write the outcome to `folder/outcome`."""
    trainer, module, data, record = toy(folder, private, upload)
    options: dict[str, Any] = {"round_deadline": PATIENCE, "join_timeout": PATIENCE, **settings}
    serve = ServeSettings(len(sockets), sockets, **options)
    exchange = Killed(serve, lambda: DirectTransport(sockets, 1 << 20))
    exchange.kill, exchange.pause = kill, pause
    trainer.callbacks.insert(0, exchange)
    trainer.fit(module, datamodule=data, ckpt_path="last")
    (folder / "outcome").write_text(json.dumps(outcome(module, record)))
