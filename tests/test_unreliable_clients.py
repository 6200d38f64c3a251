"""Sampling and failing clients from the command line: runs, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_options import options
from fedtt_lightning.__main__ import main

FAILURES = ["--federation.failures", "ClientFailures"]

CASES: dict[str, tuple[list[str], str]] = {
    "rate": (
        ["--federation.sampler", "PoissonSampler", "--federation.sampler.rate", "1.5"],
        "federation.sampler.rate is 1.5, but must lie in (0, 1]",
    ),
    "no rate": (["--federation.sampler", "PoissonSampler"], "rate"),
    "cohort": (
        ["--federation.sampler=SizeWeightedSampler", "--federation.sampler.clients_per_round=4"],
        "federation.sampler.clients_per_round is 4, but must lie between 1 and the 3 clients",
    ),
    "no trace": (
        ["--federation.sampler", "TraceSampler", "--federation.sampler.file", "nowhere.csv"],
        "federation.sampler.file nowhere.csv: No such file or directory",
    ),
    "unknown client": (
        ["--federation.sampler", "TraceSampler", "--federation.sampler.file", "FOLDER/trace.csv"],
        "FOLDER/trace.csv:4: client 3 is unknown: the data have 3 clients, 0 to 2",
    ),
    "dropout": (
        [*FAILURES, "--federation.failures.dropout_rate", "1"],
        "federation.failures.dropout_rate is 1.0, but must lie in [0, 1)",
    ),
    "deadline": (
        [*FAILURES, "--federation.failures.deadline", "-3"],
        "federation.failures.deadline is -3.0, but must be > 0",
    ),
    "min_clients": (
        ["--federation.min_clients", "4"],
        "federation.min_clients is 4, but a round has at most 3 clients",
    ),
    "below_min_clients": (["--federation.below_min_clients", "stop"], "below_min_clients"),
    "a rule that needs more than a round may have": (
        [*FAILURES, "--federation.aggregation", "TrimmedMean", "--federation.aggregation.trim=1"],
        "federation.min_clients",
    ),
    "too few at last": (
        [
            *FAILURES, "--federation.failures.dropout_rate", "0.99",
            "--federation.min_clients", "3", "--federation.below_min_clients", "fail",
        ],
        "round 1 has 0 usable updates (3 clients dropped out, 0 late, 0 with NaN or Inf), fewer",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("more", "message"), CASES.values(), ids=CASES.keys())
def test_one_line(
    more: list[str],
    message: str,
    tiny_backbone: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "trace.csv").write_text("client,round\n0,1\n2,2\n3,3\n")
    more = [option.replace("FOLDER", str(tmp_path)) for option in more]
    assert main(["fit", *options(tiny_backbone, tmp_path, *more)]) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    (line,) = errors
    assert message.replace("FOLDER", str(tmp_path)) in line and len(line) < 400


def test_a_run_with_a_skipped_round_goes_on_from_it(
    tiny_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.csv").write_text("round,client\n1,0\n1,2\n2,1\n3,1\n3,2\n")
    run = options(
        tiny_backbone,
        tmp_path,
        *("--federation.sampler", "TraceSampler"),
        *("--federation.sampler.file", str(tmp_path / "trace.csv")),
        *("--federation.min_clients", "2"),
    )
    assert main(["fit", *run, "--trainer.max_epochs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "round 1/2  loss" in shown
    assert "round 2/2 skipped: 1 of 1 clients answered in time, 2 needed" in shown
    assert main(["fit", *run, "--ckpt_path", "last"]) == 0
    shown = capsys.readouterr().out
    assert "round 3/3  loss" in shown and "round 2/" not in shown
    assert "3 rounds (1 skipped), 5 uploads" in shown
