"""Errors a user can act on: one line that names the key, file or line, and the fix."""


class FedTTError(Exception):
    """Base of every error the command line prints as one line, with exit code 2."""


class ConfigError(FedTTError, ValueError):
    """The configuration, data or checkpoint does not fit; nothing was trained or written."""


class FederationError(FedTTError, RuntimeError):
    """A federation that cannot go on, such as a round in which no update is finite."""
