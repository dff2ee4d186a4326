"""The shapes that are timed; the command line lists their names."""

import ast
import dataclasses

from specialize.errors import InputError, nearest, suggestion


@dataclasses.dataclass(frozen=True)
class BenchShape:
    """A network and a batch.

    Attributes:
        name: as given on the command line, changes included.
        emb_dim: D.
        num_heads: H.
        head_dim: size of a head.
        mlp_dim: units of a gated feed-forward layer.
        layers: of the encoder, and as many of the decoder.
        batch: B, rows.
        input_length: S, tokens of an encoder row.
        target_length: L, tokens of a decoder row.
        vocabulary: V.
        dtype: of activations.
        dropout: rate.
        teacher_k: K.
        examples_per_row: how many are packed into one.
        filled: share of the positions that hold a token.
        scan_layers: as `T5Config`.
        remat_policy: as `T5Config`.
        attention: as `T5Config`.
        optimizer: of the training step, by name.
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
        """Target positions of a batch."""
        return self.batch * self.target_length

    @property
    def positions(self) -> int:
        """Positions of a batch, encoder and decoder."""
        return self.batch * (self.input_length + self.target_length)


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
    """The shape of this name, changed as the name says.

    Args:
        text: a key of `SHAPES`, or one with changes: "xl:batch=32,dtype=float32".

    Raises:
        InputError: no such shape or attribute, or a value of another type.
    """
    name, _, changes = text.partition(":")
    if name not in SHAPES:
        raise InputError(
            f"--shape {text}: no shape is called {name!r}; choose one of "
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
                f"--shape {text}: a shape has no {attribute!r}; it has "
                f"{', '.join(types)}.{suggestion(nearest(attribute, types))}"
            )
        old = getattr(shape, attribute)
        try:
            value = written if isinstance(old, str) else ast.literal_eval(written)
            fits = type(value) is type(old) and bool(str(value))
        except (SyntaxError, ValueError):
            fits = False
        if not fits:
            raise InputError(
                f"--shape {text}: {attribute} is {written!r}; it takes a value like "
                f"{old!r}."
            )
        values[attribute] = value
    return dataclasses.replace(shape, **values)
