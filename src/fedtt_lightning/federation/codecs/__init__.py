"""What makes uploads smaller: a form to send updates in, and how they are read back."""

from fedtt_lightning.federation.codecs.codec import UploadCodec, UploadMessage
from fedtt_lightning.federation.codecs.feedback import transmit
from fedtt_lightning.federation.codecs.quantized import BFloat16, Float16, Int8
from fedtt_lightning.federation.codecs.top_k import TopK

__all__ = [
    "BFloat16",
    "Float16",
    "Int8",
    "TopK",
    "UploadCodec",
    "UploadMessage",
    "transmit",
]
