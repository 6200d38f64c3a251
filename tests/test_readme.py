"""The README's example runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.processes
def test_first_example_runs_as_printed(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    assert len(example[1].splitlines()) <= 16
    check = (
        "\nassert trainer.current_epoch == 20\n"
        "trained = [n for n, p in model.named_parameters() if p.requires_grad]\n"
        "assert trained and all('tt_adapter' in n or n.startswith('head') for n in trained)\n"
        "starts_at_zero = [p for n, p in model.named_parameters() if n.endswith('up_bias')]\n"
        "assert len(starts_at_zero) == 4 and all(p.any() for p in starts_at_zero)\n"
    )
    (tmp_path / "example.py").write_text(example[1] + check)
    result = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "client  examples" in result.stdout


def test_commands_exist() -> None:
    """Every `make` target, config and preset the README names is there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)\b", readme)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    paths = set(
        re.findall(r"(?<![\w/])(?:configs|callbacks|benchmarks|tests)/[\w/]+\.(?:yaml|py)", readme)
    )
    assert paths and all((ROOT / path).is_file() for path in paths), paths
