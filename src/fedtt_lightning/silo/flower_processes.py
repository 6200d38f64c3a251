"""Flower's long-lived processes: started with what they may do, ended with their parent."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.flower_main import PARENT_VARIABLE

_VERSION = "1.41."
_COLOUR = re.compile(r"\x1b\[\d*m")
_PATIENCE = 5.0  # seconds a process has to end by itself


def check_flower() -> None:
    """Raise ConfigError unless a version of Flower is installed that this was tested with."""
    try:
        found = version("flwr")
    except PackageNotFoundError:
        found = "none"
    if not found.startswith(_VERSION):
        raise ConfigError(
            f"a federation over Flower needs flwr {_VERSION}x, and {found} is installed: run "
            "pip install 'fedtt-lightning[flower]'"
        )


def check_port(host: str, port: int, key: str) -> None:
    """Raise ConfigError if this machine cannot listen on `host`:`port`."""
    try:
        with socket.create_server((host, port), family=_family(host)):
            pass
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise ConfigError(
            f"{key}: cannot listen on {host}:{port} ({reason}): stop what does, or choose "
            "another port"
        ) from None


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Return the environment of Flower's processes: nothing phones home, nothing is installed.

    Args:
        home: Flower's own folder, in place of ~/.flwr.
        variables: further ones.
    """
    scripts = sysconfig.get_path("scripts")  # Flower starts its helpers by name
    return {
        **os.environ,
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "FORWARDED_ALLOW_IPS": "",  # or callers' headers may say who they are
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # its default is a second
        **variables,
    }


class FlowerProcess:
    """A SuperLink or SuperNode, killed with the process (and thread) that started it.

    Args:
        which: `superlink` or `supernode`.
        arguments: of its command line.
        log: file for what it prints; what an earlier one printed is replaced.
        variables: its environment.
    """

    def __init__(
        self, which: str, arguments: Sequence[str], log: Path, variables: dict[str, str]
    ) -> None:
        command = [sys.executable, "-P", "-m", "fedtt_lightning.silo.flower_main", which]
        self.log = log
        self._said: set[str] = set()  # what was found in the log, which may grow for weeks
        log.unlink(missing_ok=True)  # helpers of an earlier process may still write to that one
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**variables, PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,  # a Ctrl-C is for the parent, which then stops it
            )

    def is_running(self) -> bool:
        """Tell whether the process is alive."""
        return self._process.poll() is None

    def has_said(self, words: str) -> bool:
        """Tell whether the process has printed `words`."""
        if words not in self._said and words.encode() in self.log.read_bytes():
            self._said.add(words)
        return words in self._said

    def last_words(self) -> str:
        """Return the last line that it printed and that says something."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [text for line in lines if (text := _COLOUR.sub("", line).strip())]
        return said[-1] if said else "it printed nothing"

    def kill(self) -> None:
        """End the process at once; what it started ends by itself within a second."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Let the process say goodbye to its server, for a few seconds at most, and end it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self.kill()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
