"""What each method trains and sends on known model families, counted without any download."""

from fedtt_lightning.account.command import main

__all__ = ["main"]
