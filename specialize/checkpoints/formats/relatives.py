"""Models of T5's name or kind that this network cannot hold, and what they would need.

They are refused by the kind that their config.json states, and by their name on the
hub before anything is downloaded.
"""

import re
from typing import NamedTuple

from specialize.errors import InputError

READ = ("t5", "mt5", "umt5")


class _Relative(NamedTuple):
    kind: str
    name: str
    on_hub: str
    needs: str


_RELATIVES = (
    _Relative(
        "t5gemma2",
        "T5Gemma 2",
        r"t5-?gemma-?2-",
        "Gemma 3's layers (rotary positions, grouped heads, norms of queries and keys, "
        "sliding windows), one attention for the decoder's past and the encoder, "
        "image inputs, and Gemma's vocabulary",
    ),
    _Relative(
        "t5gemma",
        "T5Gemma",
        r"t5-?gemma",
        "Gemma 2's layers (rotary positions, grouped heads, norms before and after "
        "each part, soft-capped scores and logits, sliding windows), and Gemma's "
        "vocabulary",
    ),
    _Relative(
        "switch_transformers",
        "Switch Transformers",
        r"/switch-(base|large|xxl|c)-\d",
        "layers with routed experts, their load-balancing loss, and a mesh axis for "
        "experts",
    ),
    _Relative(
        "longt5",
        "LongT5",
        r"long-?t5",
        "encoder attention that is local or transient-global",
    ),
    _Relative(
        "pix2struct",
        "Pix2Struct",
        r"pix2struct|google/(deplot|matcha)",
        "image patches as the encoder's input",
    ),
    _Relative(
        "udop",
        "UDOP",
        r"/udop",
        "page images and the places of words as the encoder's input",
    ),
    _Relative("pop2piano", "Pop2Piano", r"pop2piano", "audio as the encoder's input"),
    _Relative(
        "myt5",
        "MyT5",
        # Its authors' name only: many call a T5 of their own so.
        r"^Tomlim/myt5",
        "the bytes of MyT5's own rewriting of a text",
    ),
)


def refuse_kind(kind: object, where: object) -> None:
    """Refuses the kind of model that a config.json states, unless it is read.

    Raises:
        InputError: says what a relative of T5 would need.
    """
    if kind in READ:
        return
    for relative in _RELATIVES:
        if kind == relative.kind:
            raise _refusal(
                f"{where} describes a {kind!r} model, {relative.name}", relative
            )
    raise InputError(
        f"{where} describes a {kind!r:.80} model; only {', '.join(map(repr, READ))} "
        "(T5, Flan-T5, UL2, ByT5, MADLAD-400, mT5, umT5) can be read. Name another "
        "checkpoint."
    )


def refuse_hub_name(name: str) -> None:
    """Refuses a name on the hub that is known to be that of such a model.

    Raises:
        InputError: says what the model would need.
    """
    for relative in _RELATIVES:
        if "/" in name and re.search(relative.on_hub, name, re.IGNORECASE):
            raise _refusal(f"{name} is {relative.name} by its name", relative)


def _refusal(found: str, relative: _Relative) -> InputError:
    return InputError(
        f"{found}. This network cannot hold it: it would need {relative.needs}. Name a "
        "checkpoint of T5, Flan-T5, UL2, ByT5, mT5, umT5 or MADLAD-400."
    )
