"""Certificates and keys: what TLS itself and OpenSSH's format make of them, and bad files."""

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.certificates import (
    check_node_key,
    check_node_public_keys,
    check_root_certificate,
    check_server_files,
    write_certificates,
    write_node_key,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_certificates(tmp_path, ["fed.example.org", "192.0.2.7"], 30)
    return tmp_path


HOST = "192.0.2.7"


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in ("ca.crt", "server.crt", "server.key")]


def _handshake(folder: Path, root: Path, name: str) -> None:
    """Connect to a TLS server with the folder's files, as `name`, trusting `root` alone."""
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(folder / "server.crt", folder / "server.key")
    here = ssl.create_default_context(cafile=root)
    here.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()
    left.settimeout(10)
    right.settimeout(10)

    def serve() -> None:
        try:
            there.wrap_socket(left, server_side=True).close()
        except (ssl.SSLError, OSError):
            left.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with here.wrap_socket(right, server_hostname=name):
        pass
    thread.join(10)


@pytest.mark.parametrize("name", ["fed.example.org", "192.0.2.7", "localhost", "127.0.0.1", "::1"])
def test_tls_accepts_the_server_under_its_names(folder: Path, name: str) -> None:
    check_server_files(*_files(folder), HOST)
    check_root_certificate(folder / "ca.crt")
    _handshake(folder, folder / "ca.crt", name)


def test_tls_refuses_other_names_and_authorities(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _handshake(folder, folder / "ca.crt", "other.example.org")
    other = folder / "other"
    other.mkdir()
    write_certificates(other, ["fed.example.org"], 30)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(folder, other / "ca.crt", "fed.example.org")
    with pytest.raises(ConfigError, match=r"serve.certificate: .* was not signed by .*other"):
        check_server_files(other / "ca.crt", *_files(folder)[1:], HOST)
    with pytest.raises(ConfigError, match=r"serve.private_key: .* does not belong to"):
        check_server_files(*_files(folder)[:2], other / "server.key", HOST)


def test_a_certificate_for_another_host(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"serve.host: .* is for other hosts than 192.0.2.8"):
        check_server_files(*_files(folder), "192.0.2.8")


def test_a_certificate_for_no_host(folder: Path) -> None:
    root = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    authority = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    leaf = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    builder = x509.CertificateBuilder(
        root.subject,
        leaf.subject,
        leaf.public_key(),
        1,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
    )
    bare = builder.sign(authority, hashes.SHA256())  # type: ignore[arg-type]
    (folder / "server.crt").write_bytes(bare.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(ConfigError, match=r"serve.host: .* is for other hosts than 192.0.2.7"):
        check_server_files(*_files(folder), HOST)


def test_private_files_are_private(folder: Path) -> None:
    write_node_key(folder / "silo-0")
    for name in ("ca.key", "server.key", "silo-0"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_node_keys_are_a_pair_on_p384(folder: Path) -> None:
    write_node_key(folder / "silo-0")
    private = serialization.load_ssh_private_key((folder / "silo-0").read_bytes(), None)
    public = serialization.load_ssh_public_key((folder / "silo-0.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name == "secp384r1"
    assert private.public_key() == public
    check_node_key(folder / "silo-0")
    check_node_public_keys([folder / "silo-0.pub"])


def test_expired(folder: Path) -> None:
    old = folder / "old"
    old.mkdir()
    write_certificates(old, ["localhost"], 0)
    with pytest.raises(ConfigError, match=r"^serve.ca_certificate: .*ca.crt expired on \d{4}-"):
        check_server_files(*_files(old), HOST)
    with pytest.raises(ConfigError, match=r"^silo.root_certificate: .* expired on .*: make a new"):
        check_root_certificate(old / "ca.crt")


def test_missing_and_broken_files(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"serve.certificate: cannot read .*none: No such file"):
        check_server_files(folder / "ca.crt", folder / "none", folder / "server.key", HOST)
    with pytest.raises(ConfigError, match=r"serve.private_key: .*ca.crt holds no private key"):
        check_server_files(*_files(folder)[:2], folder / "ca.crt", HOST)
    with pytest.raises(ConfigError, match=r"silo.root_certificate: .*server.key holds no cert"):
        check_root_certificate(folder / "server.key")
    with pytest.raises(ConfigError, match=r"silo.key: .*server.key holds no OpenSSH private key"):
        check_node_key(folder / "server.key")
    with pytest.raises(ConfigError, match=r"serve.node_keys: .*ca.crt holds no OpenSSH public"):
        check_node_public_keys([folder / "ca.crt"])


def test_keys_of_another_kind_or_twice_or_open_to_others(folder: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    openssh = serialization.PrivateFormat.OpenSSH
    none = serialization.NoEncryption()
    (folder / "ed").write_bytes(other.private_bytes(serialization.Encoding.PEM, openssh, none))
    with pytest.raises(ConfigError, match=r"silo.key: .* is not of type EC"):
        check_node_key(folder / "ed")
    write_node_key(folder / "silo-0")
    with pytest.raises(ConfigError, match=r"are one key: give each silo its own"):
        check_node_public_keys([folder / "silo-0.pub", folder / "silo-0.pub"])
    (folder / "silo-0").chmod(0o644)
    with pytest.raises(ConfigError, match=r"silo.key: others can read .*: run chmod 600"):
        check_node_key(folder / "silo-0")
    (folder / "server.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"serve.private_key: others can read .*: run chmod 600"):
        check_server_files(*_files(folder), HOST)
