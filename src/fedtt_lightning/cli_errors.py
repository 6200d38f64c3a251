"""One line that says what is wrong with a configuration, and where."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path

from fedtt_lightning.cli_classes import belongs, nearest, no_class, unknown_class

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
_SUBTYPES = re.compile(r"^Subtypes: \[(.*)\]$")
_BASE = re.compile(r"<class '([\w.]+\.\w+)'>|\[([\w.]+\.\w+)\]")
_NO_CLASS = re.compile(
    r"Expected a dot import path string: ([\w.]+)|module '([\w.]+)' has no attribute '(\w+)'"
)
_VALUE = re.compile(r"^Given value: (?!NestedArg)(.+)$")
_LITERAL = re.compile(r"Expected a (?:typing\.)?Literal\[([^\]]*)\]\. Got value: (\S+)")


def one_line(message: str, options: Iterable[str] = (), args: Sequence[str] = ()) -> str:
    """Shorten a parser's nested message to its key, its cause, and the nearest valid name.

    Args:
        message: what jsonargparse says, over many lines.
        options: the option names that exist.
        args: the command line; if a key is not on it but on one line of its config files, that
            line is named.
    """
    known = [*options]
    keys: list[str] = []
    causes: list[str] = []
    owner = given = value = ""
    bases: list[str] = []
    for raw in message.splitlines():
        line = raw.strip().removeprefix("- ").strip()
        if match := _KEY.match(line):
            keys.append(match[1])
            line = match[2]
        elif match := _CLASS.match(line):
            owner, line = match[1], match[2]
        elif match := _SUBTYPES.match(line):
            bases = [base[1] or base[2] for base in _BASE.finditer(match[1])]
        elif match := _GIVEN.match(line):
            given = given or match[1]
        if match := _VALUE.match(line):
            value = value or match[1]
        if line and not _NOISE.match(line) and line not in causes:
            causes.append(line)
    cause = _LITERAL.sub(_choice, "; ".join(causes) or "cannot be read")
    wrong = ""
    if match := _OPTION.search(cause):
        wrong = match[1]
        keys.append(wrong)
        cause = f"{owner} has no argument {wrong!r}" + nearest(wrong, _arguments(owner))
    elif match := _UNKNOWN.search(cause):
        wrong = match[1] or match[2]
        cause = f"unknown key {wrong!r}" + nearest(wrong, known)
    elif keys:
        wrong = keys[-1]
        if match := _SUBCLASS.search(cause):
            cause = f"{given or 'the class'} is no {match[1]}{_twin(given) or belongs(given)}"
        elif bases and (match := _NO_CLASS.search(cause)) and not (match[1] or "").isdigit():
            cause = unknown_class(match[1] or f"{match[2]}.{match[3]}", bases)
        elif bases and value and (match or not causes):
            cause = no_class(value, ".".join(keys), bases)
    block = wrong.split(".")[0]
    others = known and not any(name.startswith(f"{block}.") for name in known)
    if others and block in ("serve", "silo"):
        cause = f"{wrong}: the block `{block}` is for the command {block}: leave it out here"
    place = _place(wrong.split(".")[-1], args)
    path = ".".join(keys)
    return f"{place}{path}: {cause}" if path and not cause.startswith(path) else f"{place}{cause}"


def _choice(match: re.Match[str]) -> str:
    """Write jsonargparse's complaint about a Literal with its choices in words."""
    choices = [choice.strip().strip("'\"") for choice in match[1].split(",")]
    guess = nearest(match[2], choices)
    return f"is {match[2]}, but must be one of {', '.join(choices)}{guess}"


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
    given = [name.removeprefix("--").removesuffix(".class_path") for name in given]
    if not key or any(name.split(".")[-1] == key for name in given):
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
