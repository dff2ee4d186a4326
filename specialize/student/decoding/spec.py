"""How token ids are generated. A light module, which gin and the lint read quickly."""

import dataclasses

from specialize import checks
from specialize.errors import InputError

METHODS = ("greedy", "sample", "beam")
WEIGHTS = ("float", "int8")
# Least temperature of sampling; logits that are divided by less may be infinite.
LEAST_TEMPERATURE = 1e-6


@dataclasses.dataclass(frozen=True)
class GenerationSpec:
    """How the student continues an input, token by token.

    Attributes:
        method: decoding method, one of `METHODS`.
        temperature: sampling temperature; the logits are divided by it.
        top_p: "sample" draws from the smallest set of tokens that has at least this
            probability, in (0, 1].
        num_samples: number of sequences per input that "sample" draws; number of best
            sequences that "beam" returns.
        num_beams: number of sequences that "beam" follows.
        top_k: "sample" draws from this many likeliest tokens; 0 means all.
        length_penalty: "beam" divides log-probabilities by length ** length_penalty.
        early_stopping: when "beam" stops, by the three rules of Hugging Face. False:
            when the best running beam, at its current length, cannot beat the worst
            finished sequence. True: as soon as `num_beams` sequences are finished.
            "never": as False, with the most favourable length.
        weights: "float" computes as the network states; "int8" multiplies by 8-bit
            weights, faster and inexact (`student.int8`).

    Raises:
        InputError: an unknown method, or a value outside its range.
    """

    method: str = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    num_samples: int = 1
    num_beams: int = 4
    top_k: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    weights: str = "float"

    def __post_init__(self) -> None:
        checks.one_of("method", self.method, METHODS)
        checks.real("temperature", self.temperature, least=0)
        if self.method == "sample" and self.temperature < LEAST_TEMPERATURE:
            raise InputError(
                f"temperature = {self.temperature:g}; it must be at least "
                f"{LEAST_TEMPERATURE:g} with method 'sample'. For the likeliest token "
                "use method 'greedy'."
            )
        checks.real("top_p", self.top_p, above=0, most=1)
        checks.whole("num_samples", self.num_samples)
        checks.whole("num_beams", self.num_beams)
        checks.whole("top_k", self.top_k, 0)
        checks.real("length_penalty", self.length_penalty)
        checks.one_of("weights", self.weights, WEIGHTS)
        if self.early_stopping not in (True, False, "never"):
            raise InputError(
                f"early_stopping = {self.early_stopping!r}; it can be True, False or "
                "'never'."
            )
        if self.method == "beam" and self.num_samples > self.num_beams:
            raise InputError(
                f"num_samples = {self.num_samples} is more than num_beams = "
                f"{self.num_beams}. Raise num_beams, or lower num_samples."
            )

    def check_distributions(self) -> None:
        """Checks that the distributions of the generated tokens can be kept.

        Raises:
            InputError: a beam search keeps none, or they would not be the model's.
        """
        if self.method == "beam":
            raise InputError(
                "DECODING = 'beam': a beam search keeps no distributions. Use 'sample' "
                "or 'greedy'."
            )
        if self.weights != "float":
            raise InputError(
                f"DECODING_WEIGHTS = {self.weights!r}: its distributions are not those "
                "of the checkpoint. Use 'float'."
            )
