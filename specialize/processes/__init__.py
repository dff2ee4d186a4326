"""The processes of one command: messages between them, and the end of one of them."""

from specialize.processes.messages import Messages
from specialize.processes.watching import (
    LostError,
    ending_together,
    may_say,
    naming_the_lost,
    tell,
    watch,
)

__all__ = [
    "LostError",
    "Messages",
    "ending_together",
    "may_say",
    "naming_the_lost",
    "tell",
    "watch",
]
