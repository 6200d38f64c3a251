"""`python -m fedtt_lightning`: finds the command first, and only then imports what it needs."""

from __future__ import annotations

import os
import signal
import sys

_TRAINER_COMMANDS = {
    "fit": "train federated, from a config file",
    "validate": "evaluate a checkpoint on the validation data",
    "test": "evaluate a checkpoint on the test data",
    "predict": "write a checkpoint's predictions to a file",
}
_COMMANDS = {
    **_TRAINER_COMMANDS,
    "account": "parameters and bytes of FedTT beside LoRA and others, for known model families",
    "export": "write a checkpoint's adapter in PEFT's format, with a model card",
    "privacy": "noise and epsilon of a planned run, with local and with central DP",
    "study": "run a grid of config keys and seeds, with one table at the end",
    "report": "write a page on runs: accuracy, bytes, clients, privacy, side by side",
    "serve": "run the server of a federation of several organisations",
    "silo": "be one client of a federation of several organisations",
    "new-federation": "write certificates, keys and configs for a federation of organisations",
}
_USAGE = """\
usage: python -m fedtt_lightning COMMAND [options]

Federated fine-tuning with tensor-train adapters (FedTT, FedTT+) in PyTorch Lightning.

commands:
{commands}

options:
  -h, --help   show this help
  --version    show the version

examples:
  python -m fedtt_lightning fit --config configs/quickstart.yaml
  python -m fedtt_lightning fit --config configs/quickstart.yaml --config callbacks/fedtt_plus.yaml
  python -m fedtt_lightning fit --config configs/quickstart.yaml --ckpt_path last
  python -m fedtt_lightning export --config configs/quickstart.yaml --output adapter \\
      --ckpt runs/quickstart/checkpoints/last.ckpt
  python -m fedtt_lightning account --family roberta-base --rank 5
  python -m fedtt_lightning privacy --clients 100 --rounds 50 --examples 500 --epsilon 1 3 6
  python -m fedtt_lightning report runs/* -o report.html

Every key of a config file is an option too (--trainer.max_epochs 5); `fit --help` lists them,
and `fit --config FILE --print_config` shows what a run would use.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0, 2 for input that cannot be used, 130 after a Ctrl-C; more in the commands' own help.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        code = 130
    if argv is None:  # the program ends: nothing is left that a second Ctrl-C could stop
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<14} {what}" for name, what in _COMMANDS.items())
        print(_USAGE.format(commands=rows), end="")
        return 0 if args else 2
    if args[0] == "--version":
        from fedtt_lightning import __version__

        print(f"fedtt-lightning {__version__}")
        return 0
    command, rest = args[0], args[1:]
    if command in _TRAINER_COMMANDS:
        from fedtt_lightning.cli import main as run

        return run(args)
    if command == "account":
        from fedtt_lightning.account import main as account

        return account(rest)
    if command == "export":
        from fedtt_lightning.export.command import main as export

        return export(rest)
    if command == "privacy":
        from fedtt_lightning.privacy.command import main as privacy

        return privacy(rest)
    if command == "study":
        from fedtt_lightning.studies.command import main as study

        return study(rest)
    if command == "report":
        from fedtt_lightning.report.command import main as report

        return report(rest)
    if command == "silo":
        from fedtt_lightning.silo.silo_command import main as silo

        return silo(rest)
    if command == "serve":
        from fedtt_lightning.silo.serve_command import main as serve

        return serve(rest)
    if command == "new-federation":
        from fedtt_lightning.silo.new_federation import main as new_federation

        return new_federation(rest)
    hint = "put the command first" if command.startswith("-") else f"choose {', '.join(_COMMANDS)}"
    print(f"error: unknown command {command!r}: {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
