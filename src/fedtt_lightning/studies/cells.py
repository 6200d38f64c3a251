"""Cells of a study: runs named by their place in the grid, each with a record of what it did."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from fedtt_lightning import __version__
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.study_file import Study, as_text

_RECORD = "cell.json"
_UNSAFE = re.compile(r"[^\w.+=,-]+")


@dataclass(frozen=True)
class Cell:
    """One `fit` of a study.

    Attributes:
        point: the axes of the grid, each with the name of its choice here.
        seed: value of `seed_everything`.
        folder: of the run.
        configs: config files, in their order.
        options: config keys and values. `{data}` and `{backbone}` in them stand for folders, which
            are no part of what a cell is.
    """

    point: dict[str, str]
    seed: int
    folder: Path
    configs: tuple[str, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The choices and the seed, as people read them."""
        return f"{point_name(self.point)} seed={self.seed}"

    @property
    def log(self) -> Path:
        """The file for what the run prints."""
        return self.folder / "log.txt"

    def key(self) -> str:
        """Return a hash of all that decides the result: version, options, what configs say."""
        contents = [yaml.safe_load(Path(name).read_text("utf-8")) for name in self.configs]
        said = [__version__, self.seed, list(self.options.items()), contents]
        text = json.dumps(said, default=str)
        return blake2b(text.encode(), digest_size=8).hexdigest()

    def arguments(self, folders: Mapping[str, str]) -> list[str]:
        """Return the arguments of `fit` that run the cell, with the folders for `{data}` etc."""
        configs = [part for name in self.configs for part in ("--config", name)]
        options = []
        for key, value in self.options.items():
            text = as_text(value)
            for name, folder in folders.items():
                text = text.replace(f"{{{name}}}", folder)
            options.append(f"--{key}={text}")
        own = {
            "seed_everything": str(self.seed),
            "trainer.default_root_dir": str(self.folder),
            "trainer.enable_progress_bar": "false",
        }
        return ["fit", *configs, *options, *(f"--{key}={value}" for key, value in own.items())]

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

    def clear(self) -> None:
        """Remove what an earlier run with other settings, or without a checkpoint, has left."""
        if not self.folder.exists():
            return
        if any(self.folder.iterdir()) and not (self.folder / _RECORD).is_file():
            raise ConfigError(
                f"{self.folder} holds files that no study has written: move them, or choose "
                "another folder"
            )
        shutil.rmtree(self.folder)

    def write(
        self, seconds: float, summary: Mapping[str, Any] | None = None, error: str | None = None
    ) -> None:
        """Write the record: of a run that goes on, or with its summary or what went wrong."""
        record: dict[str, Any] = {"key": self.key(), "version": __version__, "point": self.point}
        record |= {"seed": self.seed, "seconds": seconds, "summary": summary, "error": error}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{_RECORD}.partial"
        partial.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        partial.replace(self.folder / _RECORD)


def point_name(point: Mapping[str, str]) -> str:
    """Return the choices of a point of the grid in one line."""
    return " ".join(f"{axis.rpartition('.')[2]}={choice}" for axis, choice in point.items())


def cells_of(study: Study) -> list[Cell]:
    """Return the cells of a study: all points of the grid with the first seed, and so on.

    Raises:
        ConfigError: two points would share a folder.
    """
    points = []
    for choices in product(*study.grid.values()):
        point = {axis: choice.name for axis, choice in zip(study.grid, choices, strict=True)}
        configs = study.configs + tuple(name for choice in choices for name in choice.configs)
        options = dict(study.options)
        for choice in choices:
            options |= choice.options
        points.append((point, _UNSAFE.sub("_", point_name(point)), configs, options))
    name, count = Counter(name for _, name, _, _ in points).most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"{study.path}: {count} points of the grid would share the folder {name}: give them "
            "names that differ in letters or digits"
        )
    return [
        Cell(point, seed, study.folder / name / f"seed={seed}", configs, options)
        for seed in study.seeds
        for point, name, configs, options in points
    ]
