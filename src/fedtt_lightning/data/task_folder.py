"""Where a task's official files are: in a folder, or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedtt_lightning.errors import ConfigError


def find_folder(data_dir: str | Path, task: str, name: str, files: tuple[str, ...]) -> Path:
    """Return the folder of a task: `data_dir` itself, or its subfolder in any spelling of `task`.

    A folder of any name that holds one of `files` (glob patterns) is taken at its word. Raises
    ConfigError, with the official `name`, if there is none.
    """
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise ConfigError(f"data.data_dir {root} is not a folder")
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if folder.absolute().name.lower().replace("-", "").replace("_", "") == task:
            return folder
    if any(path.is_file() for pattern in files for path in root.glob(pattern)):
        return root
    raise ConfigError(f"data.data_dir {root} has no folder {name!r} (or {task!r}) for task {task}")


def load_from_hub(name: str, config: str, split: str, files: str) -> Any:
    """Return a split of a data set on the hub, or raise ConfigError, which names the `files`."""
    from datasets import load_dataset

    try:
        return load_dataset(name, config, split=split)
    except Exception as error:
        # The hub's client, its cache and the network each have errors of their own.
        reason = str(error).strip().split("\n")[0][:200]
        raise ConfigError(
            f"{name} ({config}) could not be loaded from the hub ({reason}); point data.data_dir "
            f"at a folder with the official files ({files})"
        ) from error
