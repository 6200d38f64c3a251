"""The folder of a new federation: what is in it, and that the commands in it can be run."""

import re
import stat
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("flwr")

from fedtt_lightning.__main__ import main
from fedtt_lightning.silo.certificates import (
    check_node_key,
    check_node_public_keys,
    check_root_certificate,
    check_server_files,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "out"
    arguments = ["--silos", "2", "--host", "fed.example.org", "--host", "192.0.2.7"]
    assert main(["new-federation", str(folder), *arguments, "--port", "9443", "--days", "7"]) == 0
    return folder


def _shown(folder: Path, command: str) -> dict[str, Any]:
    """What `--print_config` shows of a command of the README.md, run where it says."""
    output = StringIO()
    with chdir(folder), redirect_stdout(output), pytest.raises(SystemExit) as stop:
        main([*command.split()[3:], "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(output.getvalue())


def test_files(folder: Path) -> None:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "federation.yaml",
        "silo-0.yaml",
        "silo-1.yaml",
        *(f"certificates/{name}" for name in ("ca.crt", "ca.key", "server.crt", "server.key")),
        *(f"keys/silo-{silo}{end}" for silo in range(2) for end in ("", ".pub")),
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(folder.parent.glob(".*"))


def test_the_readme_s_commands_parse_and_name_files_that_fit(folder: Path) -> None:
    readme = (folder / "README.md").read_text()
    commands = re.findall(r"^    (python -m fedtt_lightning .*)$", readme, re.MULTILINE)
    assert len(commands) == 3
    server, *silos = [_shown(folder, command) for command in commands]
    serve = server["serve"]
    with chdir(folder):
        files = [Path(serve[key]) for key in ("ca_certificate", "certificate", "private_key")]
        for host in ("fed.example.org", "192.0.2.7", "127.0.0.1"):
            check_server_files(files[0], files[1], files[2], host)
        check_node_public_keys([Path(key) for key in serve["node_keys"]])
        assert (serve["silos"], serve["host"], serve["port"]) == (2, "0.0.0.0", 9443)
        for number, config in enumerate(silos):
            silo = config["silo"]
            assert (silo["client"], silo["clients"]) == (number, 2)
            assert silo["server"] == "fed.example.org:9443"
            check_root_certificate(Path(silo["root_certificate"]))
            check_node_key(Path(silo["key"]))
            for key in ("model", "federation", "seed_everything", "data"):
                assert config[key] == server[key]
            assert config["trainer"]["limit_val_batches"] == 0
        assert server["trainer"]["limit_val_batches"] is None
    folders = [config["trainer"]["default_root_dir"] for config in (server, *silos)]
    assert len(set(folders)) == 3


def test_silos_whose_updates_are_added_in_secret(tmp_path: Path) -> None:
    assert main(["new-federation", str(tmp_path / "out"), "--silos", "3", "--secure"]) == 0
    commands = [f"silo --config silo-{silo}.yaml" for silo in range(3)]
    for command in ("serve --config federation.yaml", *commands):
        shown = _shown(tmp_path / "out", f"python -m fedtt_lightning {command}")
        assert shown[command.split()[0]]["secure_aggregation"] is True
        aggregation = shown["federation"]["aggregation"]
        assert aggregation["class_path"].endswith("SecureMean")
        assert aggregation["init_args"]["clients"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: folder, --silos"),
        (["out", "--silos", "0"], "--silos is 0, but must be from 1 to 10000"),
        (["out", "--silos", "2", "--port", "70000"], "--port is 70000, but must be from 1 to"),
        (["out", "--silos", "2", "--days", "0"], "--days is 0, but must be from 1 to"),
        (["out", "--silos", "1", "--secure"], "--secure hides nothing in a sum over one silo"),
        (["out", "--silos", "2", "--host", "a b"], "--host is 'a b', which is no name or address"),
        (["/proc/out", "--silos", "2"], "cannot write /proc/out: "),
        ([".", "--silos", "2"], "cannot write . (Device or resource busy): name a folder that"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-federation", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_keys_are_never_replaced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "keys/silo-0").read_bytes()
    assert main(["new-federation", str(folder), "--silos", "2"]) == 2
    assert "is not empty, and keys are never replaced" in capsys.readouterr().err
    assert (folder / "keys/silo-0").read_bytes() == before
