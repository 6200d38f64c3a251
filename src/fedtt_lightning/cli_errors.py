"""One line that says what is wrong with a configuration, and where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path

_NOISE = re.compile(
    r"^(Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>"
    r"|Expected a path but .* either not accessible|Not a valid subclass|Subclass types expect"
    r"|a class path \(str\)|a dict )"
)
_KEY = re.compile(r"^Parser key \"([^\"]+)\":\s*(.*)$")
_CLASS = re.compile(r"^Problem with given class_path '([^']+)':\s*(.*)$")
_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_UNKNOWN = re.compile(
    r"(?:[Kk]ey '|does not accept option ')([^']+)'|[Uu]nrecognized arguments: --([^\s=]+)"
)
_GIVEN = re.compile(r"^Given value: (?:NestedArg\(.*val=)?'?([\w.]+)'?\)?$")
_SUBCLASS = re.compile(r"Import path does not correspond to a subclass of (\w+)")


def one_line(message: str, options: Iterable[str] = (), args: Sequence[str] = ()) -> str:
    """Shorten a parser's nested message to its key, its cause, and the nearest valid name.

    Args:
        message: what jsonargparse says, over many lines.
        options: the option names that exist.
        args: the command line; if a key is not on it but on one line of its config files, that
            line is named.
    """
    keys: list[str] = []
    causes: list[str] = []
    owner = given = ""
    for raw in message.splitlines():
        line = raw.strip().removeprefix("- ").strip()
        if match := _KEY.match(line):
            keys.append(match[1])
            line = match[2]
        elif match := _CLASS.match(line):
            owner, line = match[1], match[2]
        elif match := _GIVEN.match(line):
            given = given or match[1]
        if line and not _NOISE.match(line) and line not in causes:
            causes.append(line)
    cause = "; ".join(causes) or "cannot be read"
    wrong = ""
    if match := _OPTION.search(cause):
        wrong = match[1]
        keys.append(wrong)
        cause = f"{owner} has no argument {wrong!r}" + _nearest(wrong, _arguments(owner))
    elif match := _UNKNOWN.search(cause):
        wrong = match[1] or match[2]
        cause = f"unknown key {wrong!r}" + _nearest(wrong, options)
    elif keys:
        wrong = keys[-1]
        if match := _SUBCLASS.search(cause):
            cause = f"{given or 'the class'} is no {match[1]}{_twin(given)}"
    place = _place(wrong.split(".")[-1], args)
    path = ".".join(keys)
    return f"{place}{path}: {cause}" if path and not cause.startswith(path) else f"{place}{cause}"


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _twin(class_path: str) -> str:
    """Explain a class that is right but for the namespace it comes from."""
    module, _, name = class_path.rpartition(".")
    try:
        bases = getattr(import_module(module), name).__mro__
    except (ImportError, AttributeError, ValueError):
        return ""
    if any(base.__module__.split(".")[0] == "pytorch_lightning" for base in bases):
        return " of lightning: it comes from pytorch_lightning; import from lightning.pytorch"
    return ""


def _arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []


def _place(key: str, args: Sequence[str]) -> str:
    """Return `file:line: ` if the key is on one line of the config files, and only there."""
    given = [arg.split("=")[0].rstrip("+") for arg in args if arg.startswith("--")]
    if not key or any(name.removeprefix("--").split(".")[-1] == key for name in given):
        return ""
    pattern = re.compile(rf"^\s*(-\s+)?{re.escape(key)}\+?\s*:")
    found = [
        f"{name}:{number}: "
        for name in _config_files(args)
        if Path(name).is_file()
        for number, line in enumerate(Path(name).read_text(encoding="utf-8").splitlines(), 1)
        if pattern.match(line)
    ]
    return found[0] if len(found) == 1 else ""


def _config_files(args: Sequence[str]) -> list[str]:
    """Return the files given with `--config` or `-c`."""
    files = [arg.split("=", 1)[1] for arg in args if arg.startswith("--config=")]
    return files + [args[i + 1] for i, arg in enumerate(args[:-1]) if arg in ("--config", "-c")]
