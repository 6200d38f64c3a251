"""Whether `fit` knows the keys of a study, found out before its first cell runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Any

import yaml

from fedtt_lightning.cli import FederatedCLI
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.cells import Cell
from fedtt_lightning.studies.study_file import Study


def check_cells(study: Study, cells: Iterable[Cell]) -> bool:
    """Let the parser of `fit` read one cell for each choice of the grid, and train nothing.

    Returns:
        Whether the runs may use a GPU.

    Raises:
        ConfigError: the parser refuses a cell, or a cell would write no summary, or need more than
            one process.
    """
    seen: set[tuple[str, str]] = set()
    gpu = False
    for cell in cells:
        new = [(axis, choice) for axis, choice in cell.point.items() if (axis, choice) not in seen]
        if not new:
            continue
        place = study.path if not seen else f"{study.path}: grid.{new[0][0]}: {new[0][1]}"
        seen.update(new)
        try:
            trainer = _effective(cell.arguments())["trainer"]
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        _check_trainer(place, trainer)
        gpu = gpu or trainer["accelerator"] in ("auto", "gpu", "cuda")
    return gpu


def _effective(arguments: list[str]) -> dict[str, Any]:
    """Return the whole configuration that `fit` would use."""
    output = StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        FederatedCLI([*arguments, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(output.getvalue())
    return config


def _check_trainer(place: str, trainer: dict[str, Any]) -> None:
    callbacks = [entry["class_path"] for entry in trainer["callbacks"] or ()]
    if not any(name.endswith(".RoundReport") for name in callbacks):
        raise ConfigError(
            f"{place}: trainer.callbacks has no fedtt_lightning.callbacks.RoundReport, which "
            "writes what a run comes to: add it, and Communication before it"
        )
    if trainer["devices"] not in (1, "1", "auto") or trainer["num_nodes"] != 1:
        raise ConfigError(
            f"{place}: trainer.devices is {trainer['devices']}, but each cell is one process on "
            "one device: set trainer.devices and num_nodes to 1"
        )
