"""Rounds, visits, aggregation and freezing, without any Lightning."""

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState, TensorSpec
from fedtt_lightning.federation.aggregation import (
    AggregationRule,
    AllUpdates,
    CoordinateMedian,
    FlexLoRA,
    FLoRA,
    HetLoRA,
    Krum,
    MultiKrum,
    NormBoundedMean,
    PrivateMean,
    SecureMean,
    SecureRule,
    TrimmedMean,
    TTRounding,
    WeightedMean,
)
from fedtt_lightning.federation.codecs import (
    BFloat16,
    Float16,
    Int8,
    TopK,
    UploadCodec,
    UploadMessage,
)
from fedtt_lightning.federation.factor_schedules import (
    AdaptiveFactor,
    FactorSchedule,
    FixedFactor,
    RandomFactor,
    RotatingFactor,
)
from fedtt_lightning.federation.failures import ClientFailures
from fedtt_lightning.federation.fixed_point import FixedPointCodec
from fedtt_lightning.federation.freezing import FreezingSchedule, TrainAll
from fedtt_lightning.federation.loop import FederatedLoop, Weighting
from fedtt_lightning.federation.lora_schedules import FFALoRA, LoRASchedule, RoLoRA
from fedtt_lightning.federation.plan import RoundPlan, RoundPlanner, Visit
from fedtt_lightning.federation.poisson import PoissonBatches
from fedtt_lightning.federation.ranks import ClientRanks, RankColumn, RankList, RankShares
from fedtt_lightning.federation.sampling import (
    ClientSampler,
    FixedSampler,
    PoissonSampler,
    SizeWeightedSampler,
    UniformSampler,
)
from fedtt_lightning.federation.sampling_trace import TraceSampler
from fedtt_lightning.federation.secure_sum import ModularSum, SecureSum
from fedtt_lightning.federation.seeds import generator_for, seed_all, seed_for
from fedtt_lightning.federation.server import FedAvg, ServerOptimizer
from fedtt_lightning.federation.server_optimizers import (
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedYogi,
    TorchServer,
)

__all__ = [
    "AdapterSchema",
    "AdapterState",
    "AdaptiveFactor",
    "AggregationRule",
    "AllUpdates",
    "BFloat16",
    "ClientFailures",
    "ClientRanks",
    "ClientSampler",
    "CoordinateMedian",
    "FFALoRA",
    "FLoRA",
    "FactorSchedule",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "FederatedLoop",
    "FixedFactor",
    "FixedPointCodec",
    "FixedSampler",
    "FlexLoRA",
    "Float16",
    "FreezingSchedule",
    "HetLoRA",
    "Int8",
    "Krum",
    "LoRASchedule",
    "ModularSum",
    "MultiKrum",
    "NormBoundedMean",
    "PoissonBatches",
    "PoissonSampler",
    "PrivateMean",
    "RandomFactor",
    "RankColumn",
    "RankList",
    "RankShares",
    "RoLoRA",
    "RotatingFactor",
    "RoundPlan",
    "RoundPlanner",
    "SecureMean",
    "SecureRule",
    "SecureSum",
    "ServerOptimizer",
    "SizeWeightedSampler",
    "TTRounding",
    "TensorSpec",
    "TopK",
    "TorchServer",
    "TraceSampler",
    "TrainAll",
    "TrimmedMean",
    "UniformSampler",
    "UploadCodec",
    "UploadMessage",
    "Visit",
    "WeightedMean",
    "Weighting",
    "generator_for",
    "seed_all",
    "seed_for",
]
