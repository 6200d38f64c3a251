"""The parser of commands that have arguments of their own, beside those of LightningCLI."""

from __future__ import annotations

import argparse
from typing import NoReturn

from fedtt_lightning.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Raises ConfigError, where argparse would print a page and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)
