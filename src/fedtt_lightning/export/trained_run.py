"""A run as its checkpoint and configs tell it: the trained model, and what it was trained by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from peft import PeftModel
from transformers import PreTrainedModel

from fedtt_lightning import federation
from fedtt_lightning.callbacks.checkpoint_io import SafeCheckpointIO
from fedtt_lightning.callbacks.summary_table import method_name
from fedtt_lightning.cli import FederatedCLI, own_error, silence_libraries
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules.slim_checkpoint import WRITTEN

_FROM_DATA = ("num_labels", "task")  # what a model learns of its data, see FederatedCLI


@dataclass(frozen=True)
class TrainedRun:
    """What was trained, and how.

    Attributes:
        model: the PeftModel or the model of transformers, with the checkpoint's weights, in
            evaluation mode.
        backbone: the base model as the config names it.
        method: as in the table of a run.
        merged: whether frozen weights are no longer the base model's.
        rounds, clients: how many, None if it was not federated.
        settings: how it was federated, in words.
        epsilon: the privacy spent, by the names under which LocalDP and CentralDP log it.
        metrics: those of validation and test, as they were last.
    """

    model: Any
    backbone: str
    method: str
    merged: bool
    rounds: int | None
    clients: int | None
    settings: dict[str, str]
    epsilon: dict[str, float]
    metrics: dict[str, float]


class _ConfigReader(FederatedCLI):
    """Reads configs and options as `fit` does, and makes and runs nothing."""

    def instantiate_classes(self) -> None:
        pass

    def after_instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def load_run(ckpt: Path, options: list[str]) -> TrainedRun:
    """Return the run of a checkpoint; `options` are those of its `fit`.

    Nothing is unpickled but tensors and plain values. Raises ConfigError if the checkpoint cannot
    be read, belongs to another model than the options name, or to one without PEFT or transformers.
    """
    silence_libraries()
    config = _ConfigReader(["fit", *options, "--seed_everything=false"]).config.fit.model
    checkpoint = SafeCheckpointIO().load_checkpoint(ckpt)
    module = _build(config, checkpoint.get("hyper_parameters", {}))
    model = getattr(module, "model", None)
    if not isinstance(model, PeftModel | PreTrainedModel):
        raise ConfigError(
            f"{config.class_path} has no PEFT model or model of transformers as its attribute "
            "'model', so that there is nothing to write: export is for modules that do"
        )
    module.on_load_checkpoint(checkpoint)
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ConfigError(f"the checkpoint is of another model or method: {detail}") from None
    state = checkpoint.get("callbacks", {}).get("FederatedRounds") or {}
    metrics = {n: float(v) for n, v in checkpoint.get("fedtt_metrics", {}).items()}
    settings = {name: str(value) for name, value in state.get("settings", {}).items()}
    schedule = settings.get("FactorFreezing callback", "").partition("(")[0]
    return TrainedRun(
        model=model.eval(),
        backbone=config.init_args.get("backbone") or model.name_or_path,
        method=method_name(module, getattr(federation, schedule, object)),
        merged=bool(checkpoint.get(WRITTEN)),
        rounds=state["loop"]["round"] + (not state["loop"]["is_open"]) if state else None,
        clients=state.get("clients"),
        settings=settings,
        epsilon={
            name: metrics[name]
            for name in ("dp/epsilon_max", "dp/central_epsilon_max")
            if name in metrics
        },
        metrics={n: v for n, v in metrics.items() if n.startswith(("val_", "test_"))},
    )


def _build(config: Any, hparams: Mapping[str, Any]) -> LightningModule:
    """Return the module of a config, as the data of the checkpoint's run had completed it."""
    home, _, name = config.class_path.rpartition(".")
    takes = signature(getattr(import_module(home), name)).parameters
    known = {name: hparams[name] for name in _FROM_DATA if name in hparams and name in takes}
    init_args = {**config.init_args.as_dict(), **known}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", fail_untyped=False)
    given = {"model": {"class_path": config.class_path, "init_args": init_args}}
    try:
        with torch.random.fork_rng(devices=[]):
            module: LightningModule = parser.instantiate(parser.parse_object(given)).model
    except ValueError as error:
        if (cause := own_error(error)) is None:
            raise
        raise cause from None
    return module
