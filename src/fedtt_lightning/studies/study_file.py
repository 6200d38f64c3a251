"""What a study file says: base configs, options, a grid, seeds, the metric and the folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedtt_lightning.cli_classes import nearest
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.yaml_file import UniqueKeys, read_yaml

_KEYS = ("configs", "options", "grid", "seeds", "metric", "folder")
_SET_BY_STUDY = ("seed_everything", "trainer.default_root_dir", "ckpt_path")


@dataclass(frozen=True)
class Choice:
    """One value of an axis of the grid: a name, further config files, and options."""

    name: str
    configs: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A grid of runs as its file describes it.

    Attributes:
        path: the study file.
        configs: config files that all cells have, relative to the working directory.
        options: config keys and values that all cells have.
        grid: for each axis its choices, in the order of the file.
        seeds: values of `seed_everything`.
        metric: of those that runs report after their last round.
        folder: of the cells' runs and of the results.
    """

    path: str
    configs: tuple[str, ...]
    options: dict[str, Any]
    grid: dict[str, tuple[Choice, ...]]
    seeds: tuple[int, ...]
    metric: str
    folder: Path

    def write(self, cells: Mapping[str, str]) -> None:
        """Write `study.json` in the folder: what the study now consists of.

        It holds `metric`; `grid`: for each axis the names of its choices in their order; and
        `cells`: for each cell of the grid its folder, relative to the study's and with slashes
        (`rank=2/seed=0`), and its key. A run in another folder, or whose `cell.json` has another
        `key`, is of an earlier form of the study.

        Args:
            cells: these folders and keys.
        """
        grid = {axis: [choice.name for choice in choices] for axis, choices in self.grid.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".study.json.{process_name()}.partial"
        text = json.dumps({"metric": self.metric, "grid": grid, "cells": cells}, indent=1)
        partial.write_text(text + "\n", "utf-8")
        partial.replace(self.folder / "study.json")


def read_study(path: str) -> Study:
    """Read a study file.

    Raises:
        ConfigError: it cannot be read, or a key is missing, unknown or of another form.
    """
    try:
        said = read_yaml(path, UniqueKeys)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}: name a study file") from None
    if not isinstance(said, dict):
        raise ConfigError(f"{path} holds no keys: give {', '.join(_KEYS)}")
    for key in said:
        if key not in _KEYS:
            guess = nearest(str(key), _KEYS) or f"; a study has {', '.join(_KEYS)}"
            raise ConfigError(f"{path}: unknown key {str(key)!r}{guess}")
    metric, folder = said.get("metric"), said.get("folder")
    for key, value in (("metric", metric), ("folder", folder)):
        if not isinstance(value, str) or not value:
            example = {"metric": "val_acc", "folder": "runs/studies/NAME"}[key]
            raise ConfigError(f"{path}: {key} is {value!r}: give a name, such as {example}")
    configs = _configs(path, "configs", said.get("configs"))
    if not configs:
        raise ConfigError(f"{path}: configs is empty: name the config files of `fit`")
    return Study(
        path=path,
        configs=configs,
        options=_options(path, "options", said.get("options")),
        grid=_grid(path, said.get("grid")),
        seeds=_seeds(path, said.get("seeds")),
        metric=str(metric),
        folder=Path(str(folder)),
    )


def _configs(path: str, key: str, value: Any) -> tuple[str, ...]:
    files = [value] if isinstance(value, str) else value or []
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ConfigError(f"{path}: {key} is {value!r}: list config files")
    for name in files:
        if not Path(name).is_file():
            raise ConfigError(
                f"{path}: {key} names {name}, which is no file: its path begins in the folder "
                "that the command is called from"
            )
        read_yaml(name)
    return tuple(files)


def _options(path: str, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key} is {value!r}: give config keys and values")
    for name in value:
        if name in _SET_BY_STUDY:
            what = "use seeds" if name == "seed_everything" else "each cell has its own"
            raise ConfigError(f"{path}: {key}.{name} is set by the study: {what}")
    return {str(name): setting for name, setting in value.items()}


def _grid(path: str, value: Any) -> dict[str, tuple[Choice, ...]]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{path}: grid is empty: give a config key and a list of its values")
    _options(path, "grid", value)
    return {str(axis): _choices(path, str(axis), values) for axis, values in value.items()}


def _choices(path: str, axis: str, values: Any) -> tuple[Choice, ...]:
    """Return the choices of an axis: named settings, or values of the key of this name."""
    place = f"grid.{axis}"
    if not isinstance(values, (dict, list)) or not values:
        raise ConfigError(
            f"{path}: {place} is {values!r}: give a list of values of this config key, or names "
            "with the settings of each"
        )
    if isinstance(values, dict):
        return tuple(_named(path, f"{place}.{name}", str(name), values[name]) for name in values)
    choices = []
    for value in values:
        if isinstance(value, dict):
            raise ConfigError(
                f"{path}: {place} lists a mapping: give it a name, as in NAME: {{{axis}: ...}}"
            )
        choices.append(Choice(as_text(value), (), {axis: value}))
    names = [choice.name for choice in choices]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{path}: {place} lists {repeated[0]} twice: remove one")
    return tuple(choices)


def _named(path: str, place: str, name: str, settings: Any) -> Choice:
    if not isinstance(settings, (Mapping, type(None))):
        raise ConfigError(
            f"{path}: {place} is {settings!r}: give the config keys that it sets, or configs"
        )
    rest = dict(settings or {})
    configs = _configs(path, f"{place}.configs", rest.pop("configs", None))
    return Choice(name, configs, _options(path, place, rest))


def _seeds(path: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(seed) is int for seed in value):
        raise ConfigError(f"{path}: seeds is {value!r}: list whole numbers, such as [0, 1, 2]")
    if repeated := [seed for seed in value if value.count(seed) > 1]:
        raise ConfigError(f"{path}: seeds lists {repeated[0]} twice: remove one")
    if min(value) < 0:
        raise ConfigError(f"{path}: seeds lists {min(value)}: give numbers from 0 up")
    return tuple(value)


def process_name() -> str:
    """Return a name that no other process has now that shares the folder."""
    return f"{platform.node()}-{os.getpid()}"


def as_text(value: Any) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):  # what YAML has and JSON has not: dates, .inf
        text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
        return str(text).removesuffix("...\n").rstrip()
