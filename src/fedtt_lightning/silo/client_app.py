"""Flower's side of a silo: hands each message to the silo's worker and returns its answer.

Flower starts a fresh process for each message, so this imports neither torch nor Lightning.
"""

from __future__ import annotations

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.envelope import pack, unpack
from fedtt_lightning.silo.local_socket import ask

_FAILED = 101  # the code of our errors; Flower's own are small numbers

app = ClientApp()


@app.train()
def forward(message: Message, context: Context) -> Message:
    """Reply with what the worker at the node's socket says, or with an error.

    The worker has as long as the message lives, which is until the round's deadline.
    """
    config = context.node_config
    try:
        payload = ask(
            str(config["socket"]), unpack(message), int(config["limit"]), message.metadata.ttl
        )
    except FederationError as error:
        return Message(Error(_FAILED, str(error)), reply_to=message)
    return Message(pack(payload), reply_to=message)
