"""What is found before any of Flower's processes starts, and what ends with its parent."""

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.flower_processes import check_flower, check_port, environment, free_port
from silo.processes import processes_of

needs_flower = pytest.mark.skipif(find_spec("flwr") is None, reason="flwr is not installed")


def test_flower_missing() -> None:
    if find_spec("flwr") is not None:
        check_flower()
        return
    with pytest.raises(ConfigError, match=r"needs flwr 1.41.x, and none is installed: run pip"):
        check_flower()


def test_flower_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "flwr-1.40.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flwr\nVersion: 1.40.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"needs flwr 1.41.x, and 1.40.2 is installed"):
        check_flower()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_port(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^serve.port: cannot listen on {host}:{port} "):
            check_port(host, port, "serve.port")
    check_port(host, port, "serve.port")


def test_a_host_that_is_not_here() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192.0.2.1:9 \("):
        check_port("192.0.2.1", 9, "serve.port")


def test_a_port_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"^serve.port: .*:70000 \(no such port\)"):
        check_port("127.0.0.1", 70000, "serve.port")


def test_nothing_phones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    variables = environment(tmp_path, EXTRA="x")
    assert variables["FLWR_TELEMETRY_ENABLED"] == "0"
    assert variables["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert variables["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert variables["FORWARDED_ALLOW_IPS"] == ""
    assert variables["FLWR_HOME"] == str(tmp_path) and variables["EXTRA"] == "x"


_PARENT = """
import sys, time
from pathlib import Path
from fedtt_lightning.silo.certificates import write_certificates, write_node_key
from fedtt_lightning.silo.super_node import SuperNode
folder = Path(sys.argv[1])
write_certificates(folder, [], 1)
write_node_key(folder / "key")
server = "127.0.0.1:" + sys.argv[2]
node = SuperNode(server, folder / "ca.crt", folder / "key", "/x", folder, 99, 60.0)
while "Starting Flower SuperExec" not in (folder / "supernode.log").read_text():
    time.sleep(0.1)
print("up", flush=True)
time.sleep(60)
"""


@needs_flower
@pytest.mark.flower
@pytest.mark.processes
def test_a_killed_parent_takes_flower_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PARENT, str(tmp_path), str(free_port())]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert len(processes_of(tmp_path)) >= 2  # the SuperNode and its helper
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate(timeout=10)
    end = monotonic() + 20
    while left := processes_of(tmp_path):
        assert monotonic() < end, left
        sleep(0.1)
