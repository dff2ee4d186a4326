"""Messages from process 0 to the other processes of a command."""

import itertools
import json
from typing import Any

from specialize import typed_json


class Messages:
    """JSON values that process 0 sends to the others, in order.

    They take no part of the devices, so the others may wait for any time.

    Args:
        name: Name of the conversation, which a command has once.
    """

    def __init__(self, name: str) -> None:
        from jax._src import distributed

        self._client: Any = distributed.global_state.client
        self._keys = map(f"specialize/{name}/{{}}".format, itertools.count())
        self._last: str | None = None

    def send(self, value: Any) -> None:
        """Sends a value; nothing happens in the only process of a command."""
        if self._client is None:
            return
        key = next(self._keys)
        self._client.key_value_set(key, json.dumps(value))
        # They have read the last one: they decode what it asked for with this process.
        if self._last is not None:
            self._client.key_value_delete(self._last)
        self._last = key

    def receive(self) -> Any:
        """Waits for the next value."""
        return received(self._client, next(self._keys), "process 0")


def received(client: Any, key: str, sender: str) -> Any:
    """Waits for a JSON value that a process sets in JAX's coordination service.

    Args:
        client: The service.
        key: The key of the value.
        sender: Who sets it, for messages.
    """
    while True:
        try:
            data = client.blocking_key_value_get(key, 10_000).encode()
            break
        except RuntimeError as error:  # jaxlib's kind of error
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
    return typed_json.decode(data, object, f"what {sender} sent")
