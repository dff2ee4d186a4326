"""How prompts become texts; light, so that gin and the lint read it quickly."""

import dataclasses
from typing import Any

from specialize import checks
from specialize.student.decoding.spec import GenerationSpec

# Fields that version 0.1 did not store. At their defaults they are left out, so that
# the results of that version state the same settings.
_LATER = ("top_k", "length_penalty", "early_stopping", "weights")


@dataclasses.dataclass(frozen=True)
class DecodingSpec(GenerationSpec):
    """How texts are generated from prompts.

    `GenerationSpec` has the fields that apply to one sequence: method, temperature,
    top_p, num_samples, num_beams, top_k, length_penalty, early_stopping and weights.

    Attributes:
        seed: random seed of sampling.
        batch_size: number of prompts per batch, over all devices.
        input_length: longest input in tokens, EOS included; a longer prompt loses its
            first tokens.
        output_length: longest output in tokens, EOS included (256 in the paper).

    Raises:
        InputError: an unknown method, or a value outside its range.

    Example:
        >>> specialize.DecodingSpec(method="sample", num_samples=4, seed=1).top_p
        1.0
    """

    seed: int = 0
    batch_size: int = 32
    input_length: int = 2048
    output_length: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("seed", self.seed, 0, most=2**32 - 1)
        for name in ("batch_size", "input_length", "output_length"):
            checks.whole(name, getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for results and for the settings that predictions depend on."""
        standard = GenerationSpec()
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in _LATER or value != getattr(standard, name)
        }
