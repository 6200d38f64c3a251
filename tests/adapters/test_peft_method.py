"""Registering with PEFT: the enum, its guard, and what an untried version is answered with."""

import copy
import enum
import json
import pickle

import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType

from fedtt_lightning.adapters import TTAdapterConfig, TTAdapterModel, peft_method
from fedtt_lightning.errors import ConfigError


def test_the_member_behaves_like_any_other():
    member = PeftType.TT_ADAPTER
    assert member is PeftType["TT_ADAPTER"] is PeftType("TT_ADAPTER") is PeftType.TT_ADAPTER
    assert member in list(PeftType) and "TT_ADAPTER" in PeftType.__members__
    assert member == "TT_ADAPTER" and isinstance(member, PeftType) and member.value == "TT_ADAPTER"
    assert copy.deepcopy(member) is member and pickle.loads(pickle.dumps(member)) is member
    assert json.dumps(member) == '"TT_ADAPTER"' and len({member, "TT_ADAPTER"}) == 1
    assert PeftType.LORA is PeftType("LORA")


def test_peft_finds_the_method_and_registering_twice_is_harmless():
    peft_method.register(TTAdapterConfig, TTAdapterModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["TT_ADAPTER"] is TTAdapterConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING["TT_ADAPTER"] is TTAdapterModel
    assert sum(name == "TT_ADAPTER" for name in PeftType.__members__) == 1


@pytest.mark.parametrize("version", ["0.19.0", "0.20.0", "0.21.2", "0.21.99"])
def test_tried_versions_pass(version):
    peft_method.check_version(version)


@pytest.mark.parametrize("version", ["0.18.1", "0.22.0", "1.0"])
def test_other_versions_are_refused_with_the_remedy(version):
    with pytest.raises(ConfigError) as error:
        peft_method.check_version(version)
    assert f"peft {version}" in str(error.value)
    assert "pip install 'peft>=0.19,<0.22'" in str(error.value)


def test_an_enum_that_cannot_be_extended_is_noticed():
    class Closed(enum.StrEnum):
        LORA = "LORA"

        @classmethod
        def _missing_(cls, value):
            return cls.LORA

    Closed._value2member_map_ = type("Frozen", (dict,), {"__setitem__": lambda *_: None})()
    with pytest.raises(ConfigError, match="Closed"):
        peft_method.add_enum_member(Closed, "TT_ADAPTER")
