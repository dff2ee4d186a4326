"""From input ids to generated ids, by any decoding method; knows no tokenizer."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int, PyTree

from specialize import checks
from specialize.errors import InputError
from specialize.student.decoding import beams, single
from specialize.student.decoding.single import Steps
from specialize.student.decoding.source import Source
from specialize.student.decoding.spec import GenerationSpec
from specialize.student.network.transformer import Transformer


class Generated(NamedTuple):
    """What was decoded.

    Attributes:
        tokens: ids up to and including EOS, then 0; [B, L], or [B, n, L] if several
            continuations of each row were asked for, best first after a beam search.
        scores: log-probability under the model, in nats, of each sequence, EOS
            included; after a beam search divided by length ** length_penalty.
        steps: the distributions, where `alternatives` were asked for; always with the
            axis n.
    """

    tokens: Int[Array, "B L"] | Int[Array, "B n L"]
    scores: Float[Array, " B"] | Float[Array, "B n"]
    steps: Steps | None = None


def generate(
    module: Transformer,
    params: PyTree,
    encoder_input_tokens: Int[Array, "B S"],
    spec: GenerationSpec = GenerationSpec(),
    *,
    max_length: int,
    rng: jax.Array | None = None,
    eos_id: int = 1,
    alternatives: int = 0,
) -> Generated:
    """Decodes every row; to be called inside `jax.jit`, under any mesh.

    Args:
        module: the network, scanned or not.
        params: its parameters.
        encoder_input_tokens: input ids; 0 is padding at any position. A row of nothing
            but padding is finished before it begins and yields zeros.
        spec: how ids are generated.
        max_length: largest number of tokens of a sequence, EOS included.
        rng: random key of sampling. Row i of a batch of the same shape draws the same
            numbers whatever the other rows hold. Or one key per row, [B]: then what a
            row draws depends on neither its place nor the batch.
        eos_id: the id that ends a sequence.
        alternatives: K of the distributions to return beside the tokens; 0 for none.
            A beam search returns none.

    Raises:
        InputError: a value outside its range, or no key to sample with.
    """
    checks.whole("max_length", max_length)
    vocabulary = module.config.vocab_size
    if not 0 <= alternatives <= vocabulary:
        raise InputError(
            f"alternatives = {alternatives}; it must be 0 (none) to the {vocabulary} "
            "rows of the vocabulary."
        )
    if alternatives and spec.method == "beam":
        raise InputError(
            "alternatives of a beam search are not kept; use 'greedy' or 'sample'."
        )
    choose = None
    if spec.method == "sample":
        if rng is None:
            raise InputError("sampling needs a random key: pass rng.")
        choose = single.sampled(spec, rng)
    source = Source(module, params, encoder_input_tokens, max_length)
    wanted = 1 if spec.method == "greedy" else spec.num_samples
    if spec.method == "beam":
        tokens, scores = beams.search(source, spec, eos_id)
        tokens, scores, steps = tokens[:, :wanted], scores[:, :wanted], None
    else:
        tokens, scores, steps = single.continue_rows(
            source, wanted, choose, eos_id, alternatives
        )
    if wanted == 1:
        return Generated(tokens[:, 0], scores[:, 0], steps)
    return Generated(tokens, scores, steps)
