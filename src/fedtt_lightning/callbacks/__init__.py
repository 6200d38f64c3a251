"""Lightning callbacks: rounds, freezing, communication, checkpoints and reports."""

from fedtt_lightning.callbacks.central_dp import CentralDP
from fedtt_lightning.callbacks.client_evaluation import ClientEvaluation
from fedtt_lightning.callbacks.client_store import ClientStore
from fedtt_lightning.callbacks.communication import Communication
from fedtt_lightning.callbacks.early_signs import EarlySigns
from fedtt_lightning.callbacks.factor_freezing import FactorFreezing
from fedtt_lightning.callbacks.fed_prox import FedProx
from fedtt_lightning.callbacks.federated_checkpoint import FederatedCheckpoint
from fedtt_lightning.callbacks.federated_rounds import FederatedRounds
from fedtt_lightning.callbacks.local_dp import LocalDP
from fedtt_lightning.callbacks.lora_merging import LoRAMerging
from fedtt_lightning.callbacks.personalization import Personalization
from fedtt_lightning.callbacks.prediction_file import PredictionFile
from fedtt_lightning.callbacks.round_report import RoundReport
from fedtt_lightning.callbacks.scaffold import Scaffold

__all__ = [
    "CentralDP",
    "ClientEvaluation",
    "ClientStore",
    "Communication",
    "EarlySigns",
    "FactorFreezing",
    "FedProx",
    "FederatedCheckpoint",
    "FederatedRounds",
    "LoRAMerging",
    "LocalDP",
    "Personalization",
    "PredictionFile",
    "RoundReport",
    "Scaffold",
]
