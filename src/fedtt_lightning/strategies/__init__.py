"""How processes share the work: Lightning strategies."""

from lightning.pytorch.strategies import StrategyRegistry

from fedtt_lightning.strategies.sharded_backbone import ShardedBackbone
from fedtt_lightning.strategies.silo_ddp import SiloDDPStrategy

if "silo_ddp" not in StrategyRegistry:
    StrategyRegistry.register("silo_ddp", SiloDDPStrategy, "DDP in silos that train other clients")

__all__ = ["ShardedBackbone", "SiloDDPStrategy"]
