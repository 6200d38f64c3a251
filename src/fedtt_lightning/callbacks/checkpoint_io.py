"""Checkpoints are read without pickle, and a damaged one is named."""

from __future__ import annotations

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from fedtt_lightning.errors import ConfigError


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads checkpoints as plain tensors and containers unless the caller asks otherwise.

    Args:
        durable: whether a checkpoint is on the disk, not only in its cache, once it is saved.

    Raises:
        ConfigError: the file is missing, cut short, changed on disk, or holds other objects.
    """

    def __init__(self, durable: bool = False) -> None:
        self._durable = durable

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        torch.save(checkpoint, partial)
        if self._durable:
            _sync(partial)
        partial.replace(path)
        if self._durable:
            _sync(path.parent)  # which holds the name

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        if "://" not in str(path):
            _check_whole(Path(path))
        try:
            checkpoint = super().load_checkpoint(
                path, map_location, weights_only=True if weights_only is None else weights_only
            )
        except UnpicklingError as error:
            reason = str(error).split("\n")[0]
            raise ConfigError(
                f"{path} holds more than tensors and plain values and is not read: {reason} If you "
                "trust its author, pass weights_only=False"
            ) from None
        keys = {"pytorch-lightning_version", "state_dict", "loops"}
        if not isinstance(checkpoint, dict) or not keys <= checkpoint.keys():
            raise ConfigError(f"{path} is no checkpoint of Lightning: change ckpt_path")
        return checkpoint


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_whole(path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"there is no checkpoint {path}: change ckpt_path")
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
    except (BadZipFile, OSError, EOFError) as error:
        raise ConfigError(
            f"{path} is no whole checkpoint ({error}): it was cut short or is another kind of "
            "file; take an older one"
        ) from None
    if damaged is not None:
        raise ConfigError(f"{path} is damaged in its part {damaged}: take an older checkpoint")
