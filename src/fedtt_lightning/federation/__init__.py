"""Rounds, visits, aggregation and freezing, without any Lightning."""

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState, TensorSpec
from fedtt_lightning.federation.aggregation import FedAvg, StreamingMean
from fedtt_lightning.federation.freezing import FreezingSchedule, RotatingFactor, TrainAll
from fedtt_lightning.federation.loop import FederatedLoop
from fedtt_lightning.federation.plan import RoundPlan, RoundPlanner, Visit
from fedtt_lightning.federation.sampling import ClientSampler, FixedSampler, UniformSampler
from fedtt_lightning.federation.seeds import generator_for, seed_all, seed_for

__all__ = [
    "AdapterSchema",
    "AdapterState",
    "ClientSampler",
    "FedAvg",
    "FederatedLoop",
    "FixedSampler",
    "FreezingSchedule",
    "RotatingFactor",
    "RoundPlan",
    "RoundPlanner",
    "StreamingMean",
    "TensorSpec",
    "TrainAll",
    "UniformSampler",
    "Visit",
    "generator_for",
    "seed_all",
    "seed_for",
]
