"""Runs with an upload codec that are killed, stopped, resumed or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from callbacks.killed_runs import killed_runs
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    BFloat16,
    FixedPointCodec,
    Float16,
    Int8,
    PrivateMean,
    SecureMean,
    TopK,
    TTRounding,
    UploadCodec,
)
from launch import launch
from toy_run import ROUNDS, At, clients_files, make_run, outcome

CODECS = [Float16(), BFloat16(), Int8(), TopK(0.1), Int8(error_feedback=False)]


def residuals(folder: Path) -> dict[str, list[float]]:
    """What clients have kept in the end, by client and tensor."""
    store = clients_files(folder / "residuals")
    kept = {client: store.load(client, ROUNDS) or {} for client in range(4)}
    return {f"{c} {n}": v.reshape(-1).tolist() for c, own in kept.items() for n, v in own.items()}


@pytest.mark.processes
def test_killed_inside_rounds(tmp_path: Path) -> None:
    batches = [10, 24, 45, 60]
    assert launch(killed_runs, tmp_path, batches, federation={"upload": Int8()}) == [0]
    whole = json.loads((tmp_path / "whole.json").read_text())
    kept = residuals(tmp_path / "whole")
    assert kept
    for batch in batches:
        assert json.loads((tmp_path / f"killed-{batch}.json").read_text()) == whole, batch
        assert residuals(tmp_path / f"killed-{batch}") == kept, batch


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_goes_on_inside_and_between_visits(codec: UploadCodec, tmp_path: Path) -> None:
    """From a checkpoint written at any batch, after the run went a little further."""
    options: dict[str, Any] = {"federation": {"upload": codec}}
    trainer, module, data, record = make_run(tmp_path / "whole", **options)
    trainer.fit(module, datamodule=data)
    expected = outcome(module, record)
    planner = trainer.callbacks[0].loop.planner  # type: ignore[attr-defined]
    first = planner.plan(0).num_batches + planner.plan(1).visits[1].first_batch

    def stop(trainer: Trainer) -> None:
        raise RuntimeError("stopped")

    for batch in (first - 1, first + 2):
        folder = tmp_path / str(batch)
        path = folder / "kept.ckpt"
        save_at = At(batch, lambda trainer, path=path: trainer.save_checkpoint(path), end=True)  # type: ignore[misc]
        trainer, module, data, _ = make_run(folder, save_at, At(batch + 12, stop), **options)
        with pytest.raises(RuntimeError, match="stopped"):
            trainer.fit(module, datamodule=data)
        trainer, module, data, record = make_run(folder, **options)
        trainer.fit(module, datamodule=data, ckpt_path=path)
        assert outcome(module, record) == expected, batch


def test_a_second_run_begins_with_nothing(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        trainer, module, data, record = make_run(tmp_path, federation={"upload": Int8()})
        trainer.fit(module, datamodule=data)
        results.append(outcome(module, record))
    assert results[0] == results[1]
    assert len([*(tmp_path / "residuals").iterdir()]) == 2


def test_refuses_to_go_on_with_another_codec_or_without_what_was_kept(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, federation={"upload": Int8()}, max_epochs=1)
    trainer.fit(module, datamodule=data)

    def resume(codec: UploadCodec | None) -> None:
        trainer, module, data, _ = make_run(tmp_path, federation={"upload": codec})
        trainer.fit(module, datamodule=data, ckpt_path="last")

    for other in (None, Float16(), Int8(error_feedback=False)):
        with pytest.raises(ConfigError, match=r"trained with upload Int8.*the same federation.up"):
            resume(other)
    shutil.rmtree(tmp_path / "residuals")
    with pytest.raises(ConfigError, match=r"there is no folder .*residuals.*default_root_dir"):
        resume(Int8())
    (tmp_path / "residuals").write_text("")
    trainer, module, data, _ = make_run(tmp_path, federation={"upload": Int8()})
    with pytest.raises(ConfigError, match=r"cannot write to .*: change trainer.default_root_dir"):
        trainer.fit(module, datamodule=data)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "SecureMean": (
        {"upload": Int8(), "aggregation": SecureMean()},
        r"aggregation SecureMean adds up fixed-point .*remove federation\.upload",
    ),
    "PrivateMean with a codec": (
        {"upload": Float16(), "aggregation": PrivateMean(codec=FixedPointCodec())},
        r"aggregation PrivateMean adds up fixed-point .*Float16: remove federation\.upload",
    ),
    "feedback of factors made anew": (
        {"upload": TopK(), "aggregation": TTRounding()},
        r"upload\.error_feedback keeps .*TTRounding makes factors anew each round: set it to false",
    ),
    "fraction": ({"upload": TopK(2.0)}, r"federation\.upload\.fraction is 2\.0, but must lie in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str, tmp_path: Path) -> None:
    federation, message = REFUSED[case]
    trainer, module, data, _ = make_run(tmp_path, plus=False, federation=federation)
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, datamodule=data)
    assert not (tmp_path / "residuals").exists()
