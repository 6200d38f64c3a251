"""The keys of a federation: its own authority, the server's certificate, one key a silo."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedtt_lightning.errors import ConfigError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")  # Flower's own processes reach the server there


def write_certificates(folder: Path, hosts: Sequence[str], days: int) -> None:
    """Write an authority (ca.crt, ca.key) and a server certificate (server.crt, server.key).

    Args:
        folder: an existing folder; private keys in it get mode 0600.
        hosts: names and addresses at which silos reach the server; loopback is always added.
        days: for which both certificates are valid.
    """
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    name = _name("fedtt-lightning federation")
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    own = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    root = (
        _certificate(name, name, authority.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(own, critical=False)
        .sign(authority, SHA256())
    )
    names = [_host(host) for host in dict.fromkeys((*hosts, *_LOOPBACK))]
    signer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    leaf = (
        _certificate(_name("fedtt-lightning server"), name, server.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(signer, critical=False)
        .sign(authority, SHA256())
    )
    _write_private(folder / "ca.key", _pem(authority))
    _write_private(folder / "server.key", _pem(server))
    (folder / "ca.crt").write_bytes(root.public_bytes(form.Encoding.PEM))
    (folder / "server.crt").write_bytes(leaf.public_bytes(form.Encoding.PEM))


def write_node_key(path: Path) -> None:
    """Write a silo's private key to `path` (mode 0600) and its public key to `path`.pub.

    Both are EC P-384 keys in OpenSSH's format, as Flower reads them.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    _write_private(path, private)
    path.with_name(f"{path.name}.pub").write_bytes(public + b"\n")


def check_server_files(ca: Path, certificate: Path, private_key: Path, host: str) -> None:
    """Raise ConfigError unless the server's certificate is valid now, signed by `ca` and its own.

    Args:
        ca: the authority's certificate, named by `serve.ca_certificate`.
        certificate: the server's, named by `serve.certificate`.
        private_key: which belongs to it, named by `serve.private_key`.
        host: a name or address that must be in the certificate.
    """
    root = _read_certificate(ca, "serve.ca_certificate")
    leaf = _read_certificate(certificate, "serve.certificate")
    try:
        leaf.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        raise ConfigError(
            f"serve.certificate: {certificate} was not signed by {ca}: give the pair that belongs "
            "together"
        ) from None
    key = _parse(private_key, "serve.private_key", "private key", _load_pem_key)
    _check_private(private_key, "serve.private_key")
    if _public(key.public_key()) != _public(leaf.public_key()):
        raise ConfigError(
            f"serve.private_key: {private_key} does not belong to {certificate}: give its own key"
        )
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    if _host(host) not in names:
        raise ConfigError(
            f"serve.host: {certificate} is for other hosts than {host}: make one for it with "
            "`new-federation --host`"
        )


def check_root_certificate(path: Path) -> None:
    """Raise ConfigError unless `silo.root_certificate` is a certificate that is valid now."""
    _read_certificate(path, "silo.root_certificate")


def check_node_key(path: Path) -> None:
    """Raise ConfigError unless `silo.key` is an elliptic curve's private key of this user alone."""
    key = _parse(path, "silo.key", "OpenSSH private key", _load_ssh_key)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"silo.key: {path} is not of type EC: make one with `new-federation`")
    _check_private(path, "silo.key")


def check_node_public_keys(paths: Sequence[Path]) -> None:
    """Raise ConfigError unless `serve.node_keys` are public keys of elliptic curves, all different.

    Args:
        paths: the silos' .pub files.
    """
    seen: dict[bytes, Path] = {}
    for path in paths:
        key = _parse(path, "serve.node_keys", "OpenSSH public key", form.load_ssh_public_key)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ConfigError(
                f"serve.node_keys: {path} is not of type EC: make one with `new-federation`"
            )
        other = seen.setdefault(_public(key), path)
        if other is not path:
            raise ConfigError(
                f"serve.node_keys: {path} and {other} are one key: give each silo its own"
            )


def _check_private(path: Path, key: str) -> None:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{key}: others can read {path}: run chmod 600 {path}")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _load_pem_key(content: bytes) -> Any:
    return form.load_pem_private_key(content, None)


def _load_ssh_key(content: bytes) -> Any:
    return form.load_ssh_private_key(content, None)


def _public(key: Any) -> bytes:
    return key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)


def _read_certificate(path: Path, key: str) -> x509.Certificate:
    certificate = _parse(path, key, "certificate", x509.load_pem_x509_certificate)
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        end = certificate.not_valid_after_utc
        raise ConfigError(f"{key}: {path} expired on {end:%Y-%m-%d}: make a new one")
    if now < certificate.not_valid_before_utc:
        start = certificate.not_valid_before_utc
        raise ConfigError(
            f"{key}: {path} is valid only from {start:%Y-%m-%d %H:%M} UTC: check this "
            "machine's clock"
        )
    return certificate


def _parse(path: Path, key: str, what: str, load: Callable[[bytes], Any]) -> Any:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{key}: {path} holds no {what}") from None
