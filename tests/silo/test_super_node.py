"""A silo's connection: servers it refuses, and who else on its machine can speak for it."""

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

import pytest

pytest.importorskip("flwr")

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.certificates import write_certificates, write_node_key
from fedtt_lightning.silo.flower_processes import free_port
from fedtt_lightning.silo.super_node import SuperNode

pytestmark = [pytest.mark.flower, pytest.mark.processes]


@pytest.mark.parametrize("server", ["host", ":1", "host:x", "host:0", "host:70000"])
def test_a_server_that_cannot_be(tmp_path: Path, server: str) -> None:
    with pytest.raises(ConfigError, match=rf"^silo.server is '{server}', but must be host:port$"):
        SuperNode(server, "ca.crt", "key", "/x", tmp_path, 99, 60.0)


@pytest.mark.parametrize("character", ['"', "\\", "\n"])
def test_a_socket_that_flower_cannot_be_told(tmp_path: Path, character: str) -> None:
    with pytest.raises(ConfigError, match=r"^silo.socket: '/.*' has a character that Flower"):
        SuperNode("h:1", "ca.crt", "key", f"/a{character}b", tmp_path, 99, 60.0)


def test_a_server_whose_certificate_has_expired(tmp_path: Path) -> None:
    write_certificates(tmp_path, [], 1)
    write_node_key(tmp_path / "key")
    _let_expire(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        node = SuperNode(address, tmp_path / "ca.crt", tmp_path / "key", "/x", tmp_path, 99, 60.0)
        try:
            with pytest.raises(FederationError, match=r"the server's certificate has expired"):
                _serve(server, context, node.check)
        finally:
            node.close()


def _serve(server: socket.socket, context: ssl.SSLContext, check: Callable[[], None]) -> None:
    """Greet whoever connects for a minute, until `check` raises."""
    end = monotonic() + 60
    while monotonic() < end:
        with suppress(OSError), server.accept()[0] as connection:
            connection.settimeout(5)
            context.wrap_socket(connection, server_side=True).close()
        check()


def _let_expire(folder: Path) -> None:
    """Replace the server's certificate by one that ended yesterday."""
    authority = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    now, day = datetime.now(UTC), timedelta(days=1)
    names = (old.issuer, old.subject, old.public_key(), old.serial_number)
    new = x509.CertificateBuilder(*names, now - 2 * day, now - day, list(old.extensions))
    signed = new.sign(authority, SHA256())  # type: ignore[arg-type]
    (folder / "server.crt").write_bytes(signed.public_bytes(Encoding.PEM))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_other_users_cannot_answer_for_the_silo(tmp_path: Path) -> None:
    write_certificates(tmp_path, [], 1)
    write_node_key(tmp_path / "key")
    server = f"127.0.0.1:{free_port()}"  # which nobody is
    node = SuperNode(server, tmp_path / "ca.crt", tmp_path / "key", "/x", tmp_path, 99, 60.0)
    try:
        end = monotonic() + 60
        while not node._process.has_said("Uvicorn running on"):
            assert monotonic() < end, node._process.last_words()
            sleep(0.1)
        log = (tmp_path / "supernode.log").read_text()
        port = int(log.split("Uvicorn running on http://127.0.0.1:")[1].split()[0])
        assert _status_for(os.getuid(), port) == 200
        assert _status_for(65534, port) == 403
    finally:
        node.close()


def _status_for(user: int, port: int) -> int:
    """Return what a user's process is told that asks a SuperNode for a message to answer."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setuid(user)
            with socket.socket() as connection:
                connection.settimeout(10)
                connection.connect(("127.0.0.1", port))
                connection.sendall(
                    b"POST /v1/runtime/acquire-task HTTP/1.1\r\nHost: localhost\r\n"
                    b"Content-Type: application/protobuf\r\nContent-Length: 0\r\n\r\n"
                )
                os.write(write, connection.recv(100))
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as answer:
        return int(answer.read().split()[1])
