"""The shapes that are timed; the command line lists their names."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BenchShape:
    """A network and a batch.

    Attributes:
        name: as given on the command line.
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
            remat_policy="minimal",
        ),
    )
}
