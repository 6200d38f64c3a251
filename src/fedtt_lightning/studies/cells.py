"""Cells of a study: runs named by their place in the grid, each with a record of what it did."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

from fedtt_lightning import __version__
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.study_file import Choice, Study, as_text
from fedtt_lightning.studies.yaml_file import meaning

_RECORD = "cell.json"
_LONGEST = 255  # bytes of a name, in all common file systems
_UNSAFE = re.compile(r"[^\w.+=,-]+")


@dataclass(frozen=True)
class Cell:
    """One `fit` of a study.

    Attributes:
        point: the axes of the grid, each with the name of its choice here.
        seed: value of `seed_everything`.
        folder: of the run.
        configs: config files, in their order.
        options: config keys and values, in which `{data}` and `{backbone}` stand for folders.
        folders: these folders by name, or a model's name on the hub.
    """

    point: dict[str, str]
    seed: int
    folder: Path
    configs: tuple[str, ...]
    options: dict[str, Any]
    folders: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The choices and the seed, as people read them."""
        return f"{point_name(self.point)} seed={self.seed}"

    @property
    def log(self) -> Path:
        """The file for what the run prints."""
        return self.folder / "log.txt"

    def key(self) -> str:
        """Return a hash of all that decides the result: version, options, what configs say.

        Of a folder it has the last name: a folder may move, but another model is another cell.
        """
        names = {name: _last_name(folder) for name, folder in self.folders.items()}
        contents = [meaning(path) for path in self.configs]
        said = [__version__, self.seed, self._options(names), contents]
        return blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()

    def arguments(self) -> list[str]:
        """Return the arguments of `fit` that run the cell."""
        configs = [part for name in self.configs for part in ("--config", name)]
        own = {
            "seed_everything": str(self.seed),
            "trainer.default_root_dir": str(self.folder),
            "trainer.enable_progress_bar": "false",
        }
        options = [*self._options(self.folders), *own.items()]
        return ["fit", *configs, *(f"--{key}={value}" for key, value in options)]

    def _options(self, folders: Mapping[str, str]) -> list[tuple[str, str]]:
        options = []
        for key, value in self.options.items():
            text = as_text(value)
            for name, folder in folders.items():
                text = text.replace(f"{{{name}}}", folder)
            options.append((key, text))
        return options

    def record(self) -> dict[str, Any] | None:
        """Return what is known of the cell's last run, None if it has none with these settings."""
        try:
            record = json.loads((self.folder / _RECORD).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        same = isinstance(record, dict) and record.get("key") == self.key()
        return record if same else None

    def finished(self) -> dict[str, Any] | None:
        """Return the record if the cell has run to its end with these settings."""
        record = self.record()
        return record if record is not None and record["summary"] is not None else None

    def resumes(self) -> bool:
        """Tell whether the run was interrupted and has left a checkpoint to go on from."""
        record = self.record()
        stopped = record is not None and record["summary"] is None and record["error"] is None
        return stopped and (self.folder / "checkpoints" / "last.ckpt").is_file()

    def check_folder(self) -> None:
        """Refuse a folder in which something is that no study has written.

        Raises:
            ConfigError: there is.
        """
        for place in (self.folder, self.folder.parent):
            if place.exists() and not place.is_dir():
                raise ConfigError(f"{place} is no folder: move it, or choose another folder")
        if not self.folder.exists() or (self.folder / _RECORD).is_file():
            return
        if any(self.folder.iterdir()):
            raise ConfigError(
                f"{self.folder} holds files that no study has written: move them, or choose "
                "another folder"
            )

    def clear(self) -> None:
        """Remove what an earlier run with other settings, or without a checkpoint, has left."""
        self.check_folder()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def write(
        self,
        seconds: float,
        summary: Mapping[str, Any] | None = None,
        error: str | None = None,
        key: str | None = None,
    ) -> None:
        """Write the record: of a run that goes on, or with its summary or what went wrong.

        Args:
            seconds: that it has taken so far.
            summary: of a run that has ended.
            error: of one that has failed.
            key: what the cell was when the run began, if configs may have changed since.
        """
        record: dict[str, Any] = {"key": key or self.key(), "version": __version__}
        record |= {"point": self.point, "seed": self.seed, "folders": dict(self.folders)}
        record |= {"seconds": seconds, "summary": summary, "error": error}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{_RECORD}.partial"
        partial.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        partial.replace(self.folder / _RECORD)


def point_name(point: Mapping[str, str]) -> str:
    """Return the choices of a point of the grid in one line."""
    return " ".join(f"{axis.rpartition('.')[2]}={choice}" for axis, choice in point.items())


def _last_name(folder: str) -> str:
    return Path(os.path.abspath(folder)).name if Path(folder).is_dir() else folder


def cells_of(study: Study, folders: Mapping[str, str] | None = None) -> list[Cell]:
    """Return the cells of a study: all points of the grid with the first seed, and so on.

    Args:
        study: what its file says.
        folders: for `{data}` and `{backbone}`.

    Raises:
        ConfigError: two axes set one key, two points would share a folder, or its name is too long.
    """
    points = []
    for choices in product(*study.grid.values()):
        point = {axis: choice.name for axis, choice in zip(study.grid, choices, strict=True)}
        configs = study.configs + tuple(name for choice in choices for name in choice.configs)
        options = study.options | _settings(study, choices)
        points.append((point, _UNSAFE.sub("_", point_name(point)), configs, options))
    name, count = Counter(name for _, name, _, _ in points).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"{study.path}: {count} points of the grid would share the folder {name}: give them "
            "names that differ in letters or digits"
        )
    longest = max((name for _, name, _, _ in points), key=lambda name: len(name.encode()))
    if len(longest.encode()) > _LONGEST:
        raise ConfigError(
            f"{study.path}: the grid's names make a folder's of {len(longest.encode())} bytes, "
            f"{longest[:40]}…, and {_LONGEST} are the most: give choices shorter names"
        )
    return [
        Cell(point, seed, study.folder / name / f"seed={seed}", configs, options, folders or {})
        for seed in study.seeds
        for point, name, configs, options in points
    ]


def _settings(study: Study, choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the keys that the choices of a point set; one of two axes would do nothing there."""
    axes: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for axis, choice in zip(study.grid, choices, strict=True):
        for key in choice.options:
            if key in axes:
                raise ConfigError(
                    f"{study.path}: grid.{axes[key]} and grid.{axis}: {choice.name} both set "
                    f"{key}: leave it to one of them"
                )
            axes[key] = axis
        settings |= choice.options
    return settings
