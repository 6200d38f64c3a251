"""Makes PEFT know the method TT_ADAPTER: the one place that touches PEFT's enum of methods.

PEFT's `register_peft_method` takes only names that are members of its enum `PeftType`, and there is
no way to add one from outside (huggingface/peft issues 1562 and 2273: a method lives in PEFT's own
tree). So a member is added here, and the versions in which that was seen to work are checked first.
"""

from __future__ import annotations

import enum
from importlib.metadata import version
from typing import Any

from packaging.version import Version

from fedtt_lightning.errors import ConfigError

NAME = "TT_ADAPTER"
PREFIX = "tt_adapter"
SUPPORTED = (Version("0.19"), Version("0.22"))
"""First version that works and first that was not tried."""


def check_version(installed: str) -> None:
    """Raises ConfigError, with the command that helps, if this PEFT was not tried."""
    oldest, beyond = SUPPORTED
    if not oldest <= Version(installed) < beyond:
        raise ConfigError(
            f"peft {installed} is installed, but TT adapters were made for peft "
            f">={oldest},<{beyond}: pip install 'peft>={oldest},<{beyond}'"
        )


def add_enum_member(enum_class: type[enum.Enum], name: str) -> None:
    """Add a member whose name and value are `name` to a `str` enum, unless it is there already."""
    if name in enum_class.__members__:
        return
    member = str.__new__(enum_class, name)  # type: ignore[type-var]
    member._name_ = name
    member._value_ = name
    # The enum's metaclass refuses to set members, so set the class attribute past it.
    type.__setattr__(enum_class, name, member)
    enum_class._member_names_.append(name)
    enum_class._member_map_[name] = member
    enum_class._value2member_map_[name] = member
    if enum_class(name) is not member or enum_class[name] is not member:
        raise ConfigError(f"this Python does not let {enum_class.__name__} be extended by {name}")


def register(config_class: type[Any], tuner_class: type[Any]) -> None:
    """Register the method once; a second call is without effect (module reloads)."""
    check_version(version("peft"))
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType, register_peft_method

    add_enum_member(PeftType, NAME)
    if NAME not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(
            name=NAME.lower(), config_cls=config_class, model_cls=tuner_class, prefix=PREFIX
        )
