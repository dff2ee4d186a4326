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
        key = next(self._keys)
        return typed_json.decode(self._received(key), object, "what process 0 sent")

    def _received(self, key: str) -> bytes:
        while True:
            try:
                return self._client.blocking_key_value_get(key, 10_000).encode()
            except RuntimeError as error:  # jaxlib's kind of error
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
