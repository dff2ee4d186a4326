"""The processes of one command: what each was given, messages, and the end of one."""

from specialize.processes.agreement import agree, comparable, in_words, judged
from specialize.processes.joining import are_several, join
from specialize.processes.listing import chosen_by_first, of_all, seen_by_all
from specialize.processes.messages import Messages
from specialize.processes.watching import (
    LostError,
    ending_together,
    may_say,
    naming_the_lost,
    tell,
)

__all__ = [
    "LostError",
    "Messages",
    "agree",
    "are_several",
    "chosen_by_first",
    "comparable",
    "ending_together",
    "in_words",
    "join",
    "judged",
    "may_say",
    "naming_the_lost",
    "of_all",
    "seen_by_all",
    "tell",
]
