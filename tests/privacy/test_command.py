"""The command as a user types it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from opacus.accountants import create_accountant

from fedtt_lightning.__main__ import main as command_line
from fedtt_lightning.privacy.command import main

ROOT = Path(__file__).parents[2]
RUN = shlex.split("--clients 40 --rounds 20 --cohort 8 --examples 100")


def test_json_is_stable(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["privacy", *RUN, "--noise", "1.5", "2", "--seed", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == {
        "clients": 40,
        "rounds": 20,
        "cohort": 8,
        "sampling": "poisson",
        "examples": 100,
        "batch_size": 32,
        "local_epochs": 1,
        "local_steps": None,
        "seed": 3,
        "delta": 1e-5,
        "accountant": "rdp",
    }
    assert [*result] == ["run", "asked", "local", "central", "plans"]
    assert result["central"] == {
        "rate": 0.2,
        "rounds": 20,
        "rounds_paid": 20,
        "expected_clients": 8,
    }
    visits = result["local"].pop("visits")
    assert result["local"] == {
        "rate": 0.25,
        "expected_batch": 25.0,
        "clients": 39,
        "steps": {end: 4 * count for end, count in visits.items()},
    }
    assert result["asked"] == "noise" and [row["noise"] for row in result["plans"]] == [1.5, 2]
    first = result["plans"][0]
    direct = create_accountant("rdp")
    for _ in range(20):
        direct.step(noise_multiplier=1.5, sample_rate=0.2)
    spent = pytest.approx(direct.get_epsilon(1e-5), rel=1e-9)
    assert first["central"] == {"epsilon": spent, "noise": 1.5, "std": 1.5 / 8}
    assert {key: [*value] for key, value in first["local"].items()} == {
        key: ["least", "most"] for key in ("epsilon", "noise", "std")
    }


@pytest.mark.parametrize("asked", ["epsilon", "noise"])
def test_the_table_shows_what_the_json_holds(
    asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*RUN, "--sampling", "uniform", "--accountant", "gdp", f"--{asked}", "1", "2.5"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert main([*argv, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    start = next(i for i, line in enumerate(lines) if line.startswith("---"))
    found = "noise" if asked == "epsilon" else "epsilon"
    assert lines[start - 1].split("  ")[0].strip() == asked
    for value, row, line in zip(("1", "2.5"), plan["plans"], lines[start + 1 :], strict=False):
        cells = line.split()
        assert cells[0] == value
        assert [cell for cell in cells[1:] if cell != "to"] == [
            f"{cell:.4g}"
            for what in (found, "std")
            for cell in dict.fromkeys(row["local"][what].values())
        ] + [f"{row['central'][what]:.4g}" for what in (found, "std")]
    assert f"comes most often pays for {plan['central']['rounds_paid']} rounds" in text
    assert "8 in each, drawn uniformly" in text and "gdp may underestimate" in text
    assert max(map(len, lines)) <= 100


def test_without_examples_it_says_that_local_privacy_is_not_planned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(shlex.split("--clients 40 --rounds 20 --epsilon 3")) == 0
    shown = capsys.readouterr().out
    assert "not planned: it needs --examples" in shown and "all in each" in shown
    assert "central_dp.yaml" in shown and "local_dp.yaml" not in shown


def config_of(command: list[str]) -> dict[str, Any]:
    output = StringIO()
    with chdir(ROOT), redirect_stdout(output), pytest.raises(SystemExit) as stop:
        command_line([*command, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(output.getvalue())


@pytest.mark.parametrize(
    ("options", "callback", "sampler"),
    [
        (
            "--epsilon 1.5 --accountant gdp",
            {"epsilon": 1.5, "noise_multiplier": None, "delta": 1e-5, "accountant": "gdp"},
            {"rate": 0.2},
        ),
        (
            "--noise 0.7 --delta 1e-4 --sampling uniform --local-steps 3 --batch-size 50 --seed 4",
            {"epsilon": None, "noise_multiplier": 0.7, "delta": 1e-4, "accountant": "rdp"},
            {"clients_per_round": 8},
        ),
    ],
)
def test_the_options_it_prints_bring_the_plan_about(
    options: str,
    callback: dict[str, Any],
    sampler: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*RUN, *shlex.split(options)]) == 0
    shown = capsys.readouterr().out.replace("CONFIG", "configs/quickstart.yaml")
    commands = shown.replace("\\\n", "").split("python -m fedtt_lightning ")[1:]
    local, central = (config_of(shlex.split(command)) for command in commands)
    steps = 3 if "--local-steps" in options else None
    assert (local["federation"]["local_steps"], local["federation"]["local_epochs"]) == (steps, 1)
    assert local["data"]["init_args"]["batch_size"] == (50 if steps else 32)
    for config, name in ((local, "LocalDP"), (central, "CentralDP")):
        assert config["trainer"]["max_epochs"] == 20
        assert config["data"]["init_args"]["clients"] == 40
        assert config["seed_everything"] == (4 if steps else 0)
        assert config["federation"]["sampler"]["init_args"] == sampler
        last = config["trainer"]["callbacks"][-1]
        assert last["class_path"].endswith(f".{name}")
        assert last["init_args"].items() >= callback.items()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ("--clients 9 --rounds 5", "--epsilon --noise is required"),
        ("--clients 9 --rounds 5 --epsilon 1 --noise 1", "not allowed with argument --epsilon"),
        ("--rounds 5 --epsilon 1", "--clients"),
        ("--clients 9 --epsilon 1", "--rounds"),
        ("--clients 0 --rounds 5 --epsilon 1", "--clients: '0' is no whole number above 0"),
        ("--clients 9 --rounds 2.5 --epsilon 1", "--rounds: '2.5' is no whole number above 0"),
        ("--clients 9 --rounds 5 --cohort 10 --epsilon 1", "--cohort is 10, but there are 9"),
        ("--clients 9 --rounds 5 --examples x --epsilon 1", "--examples: 'x' is no whole"),
        ("--clients 9 --rounds 5 --examples 9 --batch-size 0 --epsilon 1", "--batch-size: '0'"),
        ("--clients 9 --rounds 5 --epsilon 1 0", "--epsilon: '0' is no number from 1e-06"),
        ("--clients 9 --rounds 5 --epsilon nan", "--epsilon: 'nan' is no number from 1e-06"),
        ("--clients 9 --rounds 5 --noise -1", "--noise: '-1' is no number from 0.001"),
        ("--clients 9 --rounds 5 --noise inf", "--noise: 'inf' is no number from 0.001"),
        ("--clients 9 --rounds 5 --epsilon 0.01", "--epsilon for central DP: epsilon 0.01 at"),
        ("--clients 9 --rounds 5 --epsilon 1 --delta 0", "--delta: '0' is no number"),
        ("--clients 9 --rounds 5 --epsilon 1 --delta 0.2", "below 1/9: .* Lower --delta"),
        ("--clients 9 --rounds 5 --epsilon 1 --delta 0.1 --examples 10", "below 1/10: .* Lower"),
        ("--clients 9 --rounds 5 --epsilon 1 --accountant ma", "--accountant"),
        ("--clients 9 --rounds 5 --epsilon 1 --sampling all", "--sampling"),
        ("--clients 9 --rounds 5 --epsilon 1 --local-epochs 2 --local-steps 2", "--local-epochs"),
        ("--clients 9 --rounds 5 --epsilon 1 --loud", "--loud"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in named.split(" .* "))


def test_help_is_light(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["--help"]) == 0
    assert "\n  privacy " in capsys.readouterr().out
    code = (
        "import sys\nfrom fedtt_lightning.__main__ import main\n"
        "try: main(['privacy', '--help'])\nexcept SystemExit: pass\n"
        "assert main(['privacy']) == 2\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'opacus')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert "--local-steps" in shown.stdout
