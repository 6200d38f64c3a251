"""The toy run with secure aggregation: its server, and silos that vanish between stages."""

from __future__ import annotations

import json
import os
from pathlib import Path
from signal import SIGKILL
from typing import Any

from fedtt_lightning.callbacks import CentralDP
from fedtt_lightning.federation import FixedPointCodec, PrivateMean, SecureMean, UniformSampler
from fedtt_lightning.silo.direct_transport import DirectTransport
from fedtt_lightning.silo.secure_answers import SecureAnswers
from fedtt_lightning.silo.serve_settings import ServeSettings
from fedtt_lightning.silo.silo_exchange import SiloExchange
from fedtt_lightning.silo.silo_settings import SiloSettings
from silo.toy_server import PATIENCE, Killed
from toy_run import make_run, outcome

SILOS = range(4)


def toy(folder: Path, private: bool = False, **federation: Any) -> Any:
    """Return the toy run with sums of integers; `private` ones hold noise of each client."""
    rule: Any = SecureMean(range=4.0, clients=4, max_weight=100.0)
    callbacks = []
    if private:
        rule = PrivateMean(clip=0.5, codec=FixedPointCodec())
        callbacks.append(CentralDP(delta=0.1, noise_multiplier=0.7))
        federation["weighting"] = "equal"
    options = {"sampler": UniformSampler(), "aggregation": rule, **federation}
    return make_run(folder, *callbacks, federation=options)


def run_silo(
    folder: Path,
    sockets: list[str],
    client: int,
    private: bool = False,
    kill: list[int] | None = None,
) -> None:
    """Fit a silo that kills its process when it is asked for a stage of a round."""
    answer = SecureAnswers.answer

    def vanish(self: SecureAnswers, ask: Any) -> Any:
        if kill == [ask.stage, ask.round]:
            os.kill(os.getpid(), SIGKILL)
        return answer(self, ask)

    SecureAnswers.answer = vanish  # type: ignore[method-assign]
    trainer, module, data, _ = toy(folder, private)
    settings = SiloSettings(client, len(SILOS), sockets[client], secure_aggregation=True)
    trainer.callbacks.insert(0, SiloExchange(settings))
    trainer.fit(module, datamodule=data, ckpt_path="last")


def run_server(
    folder: Path,
    sockets: list[str],
    private: bool = False,
    kill: list[Any] | None = None,
    pause: int | None = None,
) -> None:
    """Serve, and write the outcome to `folder/outcome`."""
    trainer, module, data, record = toy(folder, private)
    settings = ServeSettings(
        len(SILOS),
        sockets,
        round_deadline=PATIENCE,
        join_timeout=PATIENCE,
        grace=0,
        secure_aggregation=True,
    )
    exchange = Killed(settings, lambda: DirectTransport(sockets, 1 << 20))
    exchange.kill, exchange.pause = kill, pause
    trainer.callbacks.insert(0, exchange)
    trainer.fit(module, datamodule=data, ckpt_path="last")
    (folder / "outcome").write_text(json.dumps(outcome(module, record)))
