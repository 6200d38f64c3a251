"""YAML files of a study: one line on what cannot be read, and no key that is given twice."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fedtt_lightning.errors import ConfigError


class UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping in which a key comes twice, of which YAML's loader keeps the last.

    A key beside `<<` still replaces one of the mapping that is merged.
    """

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                problem = f"{key.value} is there twice: rename or remove one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def read_yaml(path: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return what a YAML file says.

    Raises:
        ConfigError: it is no YAML, with its line, or no UTF-8 text.
        OSError: it cannot be opened.
    """
    return _parse(path, _text(path), loader)


def meaning(path: str) -> str:
    """Return a text that is the same as long as a file says the same, whatever its comments.

    Raises:
        ConfigError, OSError: as `read_yaml`.
    """
    return _meaning(path, _text(path))


@lru_cache  # hundreds of cells have the same few files
def _meaning(path: str, text: str) -> str:
    return repr(_parse(path, text, yaml.SafeLoader))


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text: save it as such") from None


def _parse(path: str, text: str, loader: type[yaml.SafeLoader]) -> Any:
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(f"{path}{line}: no YAML: {problem}") from None
