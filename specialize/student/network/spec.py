"""What the fields of `T5Config` may be; light, so that the lint reads it quickly."""

import re
from typing import Any

import ml_dtypes
import numpy as np

from specialize import checks
from specialize.errors import InputError

# From most memory to least; `architecture` says what each of them stores.
REMAT_POLICIES = (
    *("none", "save_dots", "minimal_attention", "minimal", "save_mlp", "full"),
)
# T5X's names of activations, and those of Hugging Face.
ACTIVATIONS = (
    *("linear", "relu", "gelu", "gelu_new", "silu", "swish", "tanh", "sigmoid"),
)
_SIZES = (
    *("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim"),
    *("num_encoder_layers", "num_decoder_layers"),
)
_WORDS = {
    "remat_policy": REMAT_POLICIES,
    "attention": ("auto", "fused", "plain"),
    "embedding_lookup": ("auto", "gather", "one_hot"),
}


def check(**fields: Any) -> None:
    """Raises an `InputError` if one of these fields has no valid value."""
    for name, value in fields.items():
        where = f"T5Config.{name}"
        if name in _SIZES:
            checks.whole(where, value)
        elif name in _WORDS:
            checks.one_of(where, value, _WORDS[name])
        elif name in ("logits_via_embedding", "scan_layers", "relpos_per_layer"):
            checks.flag(where, value)
        elif name == "attention_block":
            checks.whole(where, value, 0)
        elif name == "dtype":
            _check_type(where, value)
        elif name == "dropout_rate":
            checks.real(where, value)
            if not 0.0 <= value < 1.0:
                raise InputError(
                    f"{where} = {value}; it must be at least 0 and below 1."
                )
        elif name == "mlp_activations":
            if not isinstance(value, list | tuple) or not value:
                raise InputError(
                    f"{where} = {checks.shown(value)}; name at least one of "
                    f"{', '.join(ACTIVATIONS)}, as ('gelu', 'linear')."
                )
            for one in value:
                checks.one_of(where, one, ACTIVATIONS)


def _check_type(where: str, value: Any) -> None:
    try:
        # numpy reads other texts as lists of types, with a parser of Python.
        named = not isinstance(value, str) or re.fullmatch(r"[a-z]\w{1,30}", value)
        if value is None or not named:
            raise TypeError
        dtype = np.dtype(value)
        if dtype.kind == "c":
            raise TypeError
        ml_dtypes.finfo(dtype)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where} = {checks.shown(value)} is not a type of numbers with a "
            "fraction. Use 'bfloat16' or 'float32'."
        ) from error
    if dtype == np.float16:
        raise InputError(
            f"{where} = 'float16': T5's activations overflow float16. Use 'bfloat16' "
            "or 'float32'."
        )
