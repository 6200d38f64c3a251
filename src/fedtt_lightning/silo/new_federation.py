"""`python -m fedtt_lightning new-federation`: certificates, keys and configs that work."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from fedtt_lightning.arguments import Parser
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.federation_files import (
    readme,
    server_config,
    silo_config,
)
from fedtt_lightning.silo.flower_processes import check_flower

_LOCAL = "127.0.0.1"
_HOST = re.compile(r"[A-Za-z0-9._:-]+")


def main(argv: list[str]) -> int:
    """Write a new federation's folder and return the exit code: 0, or 2 for bad input."""
    parser = Parser(
        prog="python -m fedtt_lightning new-federation",
        description=(
            "Write a folder with all that a federation over Flower needs: an authority, the "
            "server's certificate, a key for each silo, a config for each, and a README.md with "
            "the commands in order."
        ),
    )
    parser.add_argument("folder", type=Path, help="to write; it must not exist, or be empty")
    parser.add_argument("--silos", type=int, required=True, help="number of silos")
    parser.add_argument(
        "--host",
        action="append",
        help="name or address at which silos reach the server; may be given several times, "
        "silos use the first (default: 127.0.0.1)",
    )
    parser.add_argument("--port", type=int, default=9092, help="of the server (default: 9092)")
    parser.add_argument(
        "--days", type=int, default=365, help="that the certificates are valid (default: 365)"
    )
    parser.add_argument(
        "--secure", action="store_true", help="let the server learn only the sum of the updates"
    )
    try:
        args = parser.parse_args(argv)
        hosts = args.host or [_LOCAL]
        write_federation(args.folder, args.silos, hosts, args.port, args.days, args.secure)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.folder}: {args.folder / 'README.md'} says what to do next")
    return 0


def write_federation(
    folder: Path, silos: int, hosts: list[str], port: int, days: int, secure: bool = False
) -> None:
    """Write a federation's folder, whole or not at all.

    Args:
        folder: new or empty.
        silos: number of silos.
        hosts: names and addresses of the server; its certificate holds them all.
        port: of the server.
        days: that the certificates are valid.
        secure: whether the server is to learn sums of updates alone.

    Raises:
        ConfigError: a number that makes no sense, a folder that cannot be written, or no Flower.
    """
    for name, value, most in (
        ("--silos", silos, 10_000),
        ("--port", port, 65535),
        ("--days", days, 36_500),
    ):
        if not 1 <= value <= most:
            raise ConfigError(f"{name} is {value}, but must be from 1 to {most}")
    if secure and silos < 2:
        raise ConfigError("--secure hides nothing in a sum over one silo: give it two or more")
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ConfigError(f"--host is {host!r}, which is no name or address")
    check_flower()
    # Flower brings the package that it needs.
    from fedtt_lightning.silo.certificates import write_certificates, write_node_key

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty, and keys are never replaced: name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # mode 0700
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from None
    try:
        (partial / "certificates").mkdir()
        (partial / "keys").mkdir()
        write_certificates(partial / "certificates", hosts, days)
        for silo in range(silos):
            write_node_key(partial / "keys" / f"silo-{silo}")
            text = silo_config(silo, silos, f"{hosts[0]}:{port}", secure)
            (partial / f"silo-{silo}.yaml").write_text(text, encoding="utf-8")
        listen = _LOCAL if all(host in (_LOCAL, "localhost") for host in hosts) else "0.0.0.0"
        text = server_config(silos, listen, port, secure)
        (partial / "federation.yaml").write_text(text, encoding="utf-8")
        (partial / "README.md").write_text(readme(silos, hosts[0], days), encoding="utf-8")
        try:
            partial.replace(folder)
        except OSError as error:  # the folder is `.`, for one
            raise ConfigError(
                f"cannot write {folder} ({error.strerror}): name a folder that does not exist"
            ) from None
    except BaseException:
        rmtree(partial)
        raise
