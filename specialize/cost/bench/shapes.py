"""The shapes that are timed."""

import ast
import dataclasses
import warnings

from specialize import checks
from specialize.errors import InputError, nearest, suggestion


@dataclasses.dataclass(frozen=True)
class BenchShape:
    """A network and a batch.

    Attributes:
        name: name on the command line, with the changes.
        emb_dim: model width, D.
        num_heads: number of heads, H.
        head_dim: size of a head.
        mlp_dim: units of a gated feed-forward layer.
        layers: number of encoder layers, and of decoder layers.
        batch: number of sequences, B.
        input_length: tokens per encoder sequence, S.
        target_length: tokens per decoder sequence, L.
        vocabulary: number of pieces, V.
        dtype: type of activations.
        dropout: dropout rate.
        teacher_k: entries per teacher row, K.
        examples_per_row: number of examples packed into a sequence.
        filled: filled fraction of the positions.
        scan_layers: as in `T5Config`.
        remat_policy: as in `T5Config`.
        attention: as in `T5Config`.
        optimizer: name of the optimizer of the training step.
    """

    name: str
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    layers: int
    batch: int
    input_length: int
    target_length: int
    vocabulary: int = 32128
    dtype: str = "float32"
    dropout: float = 0.1
    teacher_k: int = 5
    examples_per_row: int = 3
    filled: float = 0.97
    scan_layers: bool = False
    remat_policy: str = "none"
    attention: str = "auto"
    optimizer: str = "adamw"

    @property
    def tokens(self) -> int:
        """Number of target positions per batch."""
        return self.batch * self.target_length

    @property
    def positions(self) -> int:
        """Number of encoder and decoder positions per batch."""
        return self.batch * (self.input_length + self.target_length)


# No size of a shape needs more; a larger one would only fill the memory.
MOST = 2**20

SHAPES = {
    shape.name: shape
    for shape in (
        BenchShape("tiny", 32, 2, 16, 64, 1, 4, 32, 16, vocabulary=512),
        BenchShape("small", 256, 4, 64, 512, 4, 8, 256, 128),
        BenchShape("base", 768, 12, 64, 2048, 12, 16, 512, 128, dtype="bfloat16"),
        BenchShape(
            "xl",
            2048,
            32,
            64,
            5120,
            24,
            64,
            512,
            128,
            dtype="bfloat16",
            scan_layers=True,
            remat_policy="minimal_attention",
        ),
    )
}


def shape_named(text: str) -> BenchShape:
    """The shape of this name, with changes as in "xl:batch=32,dtype=float32".

    Raises:
        InputError: there is no such shape or attribute, or a value has another type or
            is outside its range.
    """
    name, _, changes = text.partition(":")
    shown = checks.shown(text)
    if name not in SHAPES:
        raise InputError(
            f"--shape {shown}: no shape is called {checks.shown(name)}; choose one of "
            f"{', '.join(SHAPES)}.{suggestion(nearest(name, SHAPES))}"
        )
    shape = SHAPES[name]
    types = {field.name: field.type for field in dataclasses.fields(BenchShape)}
    del types["name"]
    values: dict[str, object] = {"name": text}
    for change in changes.split(",") if changes else ():
        attribute, _, written = change.partition("=")
        if attribute not in types:
            raise InputError(
                f"--shape {shown}: a shape has no {checks.shown(attribute)}; it has "
                f"{', '.join(types)}.{suggestion(nearest(attribute, types))}"
            )
        old = getattr(shape, attribute)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                value = written if isinstance(old, str) else ast.literal_eval(written)
            fits = type(value) is type(old) and bool(str(value))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            fits = False
        if not fits:
            raise InputError(
                f"--shape {shown}: {attribute} is {checks.shown(written)}; give a "
                f"value like {old!r}."
            )
        values[attribute] = value
    changed = dataclasses.replace(shape, **values)
    try:
        _check(changed)
    except InputError as error:
        raise InputError(f"--shape {shown}: {error}") from error
    return changed


def _check(shape: BenchShape) -> None:
    """Raises an `InputError` if a value is outside its range."""
    from specialize.student.network import spec as network
    from specialize.training.optimization.spec import OPTIMIZERS

    for field in dataclasses.fields(shape):
        value = getattr(shape, field.name)
        if type(value) is int:
            checks.whole(field.name, value, most=MOST)
    checks.whole("vocabulary", shape.vocabulary, 4, most=MOST)
    checks.whole("teacher_k", shape.teacher_k, most=shape.vocabulary)
    for name in ("input_length", "target_length"):
        checks.whole(name, getattr(shape, name), shape.examples_per_row, most=MOST)
    checks.real("filled", shape.filled, above=0, most=1)
    checks.one_of("optimizer", shape.optimizer, OPTIMIZERS)
    network.check(
        dtype=shape.dtype,
        dropout_rate=shape.dropout,
        remat_policy=shape.remat_policy,
        attention=shape.attention,
    )
