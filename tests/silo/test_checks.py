"""What cannot be done with sums alone is refused in setup, by the key to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("Crypto")

from federation.pairwise_masks import PairwiseMaskedSum
from fedtt_lightning.callbacks import EarlySigns
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import CoordinateMedian, PrivateMean, SecureMean
from fedtt_lightning.silo.serve_settings import ServeSettings
from fedtt_lightning.silo.server_exchange import ServerExchange
from fedtt_lightning.silo.silo_exchange import SiloExchange
from fedtt_lightning.silo.silo_settings import SiloSettings
from toy_run import make_run


class Watching(EarlySigns):
    """A callback of a user's own that looks at single updates."""

    def on_client_update(self, *_: Any) -> None: ...


SECURE = SecureMean(clients=4)


@pytest.mark.parametrize(
    ("rule", "callbacks", "settings", "message"),
    [
        (CoordinateMedian(), [], {}, r"gives federation\.aggregation CoordinateMedian no single"),
        (PrivateMean(), [], {}, r"adds integers: set federation\.aggregation\.codec"),
        (
            SecureMean(transport=PairwiseMaskedSum(range(4))),
            [],
            {},
            r"transport is for simulations",
        ),
        (SECURE, [EarlySigns()], {}, "EarlySigns in trainer.callbacks looks at single updates"),
        (SECURE, [Watching()], {}, "Watching in trainer.callbacks looks at single updates"),
        (SECURE, [], {"max_update_norm": 1.0}, r"serve\.max_update_norm looks at single updates"),
    ],
)
def test_refused_at_the_server(
    tmp_path: Path, rule: Any, callbacks: list[Any], settings: dict[str, Any], message: str
) -> None:
    trainer, module, data, _ = make_run(tmp_path, *callbacks, federation={"aggregation": rule})
    serve = ServeSettings(4, ["a", "b", "c", "d"], secure_aggregation=True, **settings)
    trainer.callbacks.insert(0, ServerExchange(serve, lambda: pytest.fail("connected")))
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, datamodule=data)


def test_refused_at_a_silo(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path)
    settings = SiloSettings(1, 4, str(tmp_path / "socket"), secure_aggregation=True)
    trainer.callbacks.insert(0, SiloExchange(settings))
    with pytest.raises(ConfigError, match="WeightedMean no single update: set it to SecureMean"):
        trainer.fit(module, datamodule=data)


def test_a_silo_of_more_examples_than_there_is_room_for(tmp_path: Path) -> None:
    rule = SecureMean(max_weight=5.0)
    trainer, module, data, _ = make_run(tmp_path, federation={"aggregation": rule, "sampler": None})
    socket = tmp_path / "socket"
    settings = SiloSettings(1, 4, str(socket), secure_aggregation=True)
    trainer.callbacks.insert(0, SiloExchange(settings))
    with pytest.raises(
        ConfigError, match=r"client 1 has \d+ examples, but .*max_weight is 5: raise"
    ):
        trainer.fit(module, datamodule=data)
    assert not socket.exists()
