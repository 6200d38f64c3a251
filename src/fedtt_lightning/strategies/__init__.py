"""How processes share the work: Lightning strategies."""

from fedtt_lightning.strategies.sharded_backbone import ShardedBackbone

__all__ = ["ShardedBackbone"]
