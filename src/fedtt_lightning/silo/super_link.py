"""Flower's SuperLink: the port silos connect to, the keys it lets in, the app it runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.flower_app import write_app
from fedtt_lightning.silo.flower_processes import (
    FlowerProcess,
    check_flower,
    check_port,
    environment,
)

_START = 60.0  # seconds Flower, or one of its commands, may take
_NAME = "federation"  # of the SuperLink in Flower's configuration


class SuperLink:
    """A SuperLink that lives as long as this process, and knows the given keys only.

    It keeps nothing from an earlier run: a silo whose key is no longer given is out.

    Args:
        host: address to listen on; 0.0.0.0 for all.
        port: to listen on.
        folder: for Flower's own files, and `superlink.log`.
        ca_certificate: the authority's certificate, as silos have it.
        certificate: the server's, signed by it.
        private_key: of the server's certificate.
        node_keys: the silos' public keys, as files.
        variables: environment of the app that it runs.

    Attributes:
        nodes: the node id of each key, in the order of `node_keys`.

    Raises:
        ConfigError: anything that does not fit, before anything is started.
        FederationError: Flower did not start.
    """

    def __init__(
        self,
        host: str,
        port: int,
        folder: Path,
        ca_certificate: str | Path,
        certificate: str | Path,
        private_key: str | Path,
        node_keys: Sequence[str | Path],
        variables: dict[str, str],
    ) -> None:
        check_flower()
        # Flower brings the package that it needs.
        from fedtt_lightning.silo.certificates import check_node_public_keys, check_server_files

        near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # for this machine's own
        address = f"[{near}]:{port}" if ":" in near else f"{near}:{port}"
        files = [Path(path).absolute() for path in (ca_certificate, certificate, private_key)]
        keys = [Path(path).absolute() for path in node_keys]
        check_server_files(files[0], files[1], files[2], near)
        check_node_public_keys(keys)
        check_port(host, port, "serve.port")
        home = folder.absolute()
        self._environment = environment(home, **variables)
        try:
            self._app = write_app(home / "app")
            (home / "config.toml").write_text(
                f'[superlink]\ndefault = "{_NAME}"\n\n[superlink.{_NAME}]\n'
                f"address = {json.dumps(address)}\n"
                f"root-certificates = {json.dumps(str(files[0]))}\n",
                encoding="utf-8",
            )
        except OSError as error:
            raise ConfigError(f"serve.folder: cannot write {folder}: {error.strerror}") from None
        names = ("--ssl-ca-certfile", "--ssl-certfile", "--ssl-keyfile")
        self._process = FlowerProcess(
            "superlink",
            [
                *(part for pair in zip(names, map(str, files), strict=True) for part in pair),
                *("--host", host, "--port", str(port), "--enable-supernode-auth"),
                "--disable-runtime-dependency-installation",
            ],
            home / "superlink.log",
            self._environment,
        )
        self.log = self._process.log
        try:
            self._wait_for_port(near, port)
            answers = [self._command("supernode", "register", str(key), _NAME) for key in keys]
        except BaseException:
            self.stop()
            raise
        self.nodes = [int(answer["node-id"]) for answer in answers]

    def start_app(self) -> None:
        """Submit the app, whose server part then starts."""
        self._command("run", str(self._app), _NAME)

    def check(self) -> None:
        """Raise FederationError if the SuperLink has ended."""
        if not self._process.is_running():
            raise FederationError(
                f"Flower's SuperLink ended ({self._process.last_words()}): see {self.log}"
            )

    def stop(self) -> None:
        """End the SuperLink and what it started, and free the port."""
        self._process.kill()  # it keeps nothing that it would have to save

    def _wait_for_port(self, host: str, port: int) -> None:
        end = monotonic() + _START
        while monotonic() < end:
            self.check()
            with suppress(OSError), socket.create_connection((host, port), timeout=1):
                return
            sleep(0.1)
        raise FederationError(f"Flower's SuperLink did not start: see {self.log}")

    def _command(self, *arguments: str) -> dict[str, str]:
        """Run Flower's command `flwr` and return what it answers."""
        command = str(Path(sysconfig.get_path("scripts")) / "flwr")
        answer: dict[str, str] = {}
        with suppress(subprocess.TimeoutExpired, OSError, ValueError):
            done = subprocess.run(
                [command, *arguments, "--format", "json"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START,
            )
            answer = json.loads(done.stdout)
        if not answer.get("success"):
            self.check()
            why = answer.get("error-message", f"see {self.log}")
            raise FederationError(f"flwr {' '.join(arguments[:-1])} failed: {why}")
        return answer
