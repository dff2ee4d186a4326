"""The processes of one command: what each was given, messages, and the end of one."""

from specialize.processes.agreement import agree, comparable, in_words, judged
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
    "agree",
    "comparable",
    "ending_together",
    "in_words",
    "judged",
    "may_say",
    "naming_the_lost",
    "tell",
    "watch",
]
