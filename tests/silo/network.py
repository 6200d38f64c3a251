"""Two hosts with a router between them, each a network namespace; the router can lose all."""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from shutil import which
from time import monotonic, sleep

import pytest

from silo import forks

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_TOOLS = ("ip", "nsenter", "setpriv", "sysctl", "unshare")


class Network:
    """A host at `near` and one at `far`, neither of which notices that the other is cut off.

    Nothing outlives the stack, or this process: a namespace ends with the process that is in it.
    Skips the test where namespaces are not permitted.
    """

    near, far = "10.77.0.2", "10.77.1.2"

    def __init__(self, stack: ExitStack) -> None:
        if missing := [tool for tool in _TOOLS if which(tool) is None]:
            pytest.skip(f"network namespaces need {', '.join(missing)}")
        self._router = _namespace(stack)
        self._hosts = {address: _namespace(stack) for address in (self.near, self.far)}
        _run(self._router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for number, (address, host) in enumerate(self._hosts.items()):
            port, gate = f"veth{number}", f"10.77.{number}.1"
            pair = f"link add name {port} type veth peer name eth0 netns {host}"
            for command in (pair, f"addr add {gate}/24 dev {port}", f"link set {port} up"):
                _run(self._router, "ip", *command.split())
            for command in (
                "link set lo up",
                f"addr add {address}/24 dev eth0",
                "link set eth0 up",
                f"route add default via {gate}",
            ):
                _run(host, "ip", *command.split())

    def host(self, address: str) -> int:
        """Return the process whose network `address` is in, for `run_command`."""
        return self._hosts[address]

    def cut(self) -> None:
        """Drop all between the hosts from now on, without a word to either."""
        self._rules("add")

    def heal(self) -> None:
        """Pass everything on again."""
        self._rules("del")

    def _rules(self, change: str) -> None:
        for way in ("from", "to"):
            _run(self._router, "ip", "rule", change, way, self.far, "blackhole")


def run_command(folder: Path, host: int, args: list[str], cwd: str) -> int:
    """Run `python -m fedtt_lightning` in the folder `cwd` and in the network of a process."""
    with Path(f"/proc/{host}/ns/net").open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    return forks.run_command(folder, args, cwd)


def _namespace(stack: ExitStack) -> int:
    """Return the id of a process in a network of its own, where nothing is."""
    command = "setpriv --pdeathsig KILL unshare --net sleep infinity"
    process = subprocess.Popen(command.split(), stderr=subprocess.PIPE, text=True)
    stack.callback(process.wait, 10)
    stack.callback(process.kill)
    ours, theirs = Path("/proc/self/ns/net"), Path(f"/proc/{process.pid}/ns/net")
    end = monotonic() + 10
    while process.poll() is None and os.readlink(theirs) == os.readlink(ours):
        assert monotonic() < end
        sleep(0.01)
    if process.poll() is not None:
        assert process.stderr is not None
        pytest.skip(f"network namespaces are not permitted here: {process.stderr.read().strip()}")
    return process.pid


def _run(host: int, *command: str) -> None:
    enter = ["nsenter", f"--net=/proc/{host}/ns/net", *command]
    done = subprocess.run(enter, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        pytest.skip(f"no network for tests: {' '.join(command)} says {done.stderr.strip()}")
