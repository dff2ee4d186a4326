"""From input ids to generated ids, by any decoding method, without a tokenizer."""

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
    """The result of decoding B prompts.

    Attributes:
        tokens: ids up to and including EOS, then 0; [B, L], or [B, n, L] for n > 1
            sequences per prompt. A beam search returns the best first.
        scores: log-probability of each sequence in nats, EOS included; after a beam
            search divided by length ** length_penalty.
        steps: the distributions if `alternatives` > 0, always with the axis n.
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
    """Decodes every prompt; to be called inside `jax.jit`, under any mesh.

    Args:
        module: the network, scanned or not.
        params: parameters of the network.
        encoder_input_tokens: input ids; 0 is padding at any position. A prompt that is
            only padding yields zeros.
        spec: how ids are generated.
        max_length: largest number of tokens of a sequence, EOS included.
        rng: random key of sampling. With one key, the draws of a prompt depend on its
            position and the shape of the batch, not on the other prompts. With one key
            per prompt, [B], they depend on its key alone.
        eos_id: the id that ends a sequence.
        alternatives: number K of likeliest tokens to return at every position. 0: none.
            A beam search returns none.

    Raises:
        InputError: a value is outside its range, or sampling has no key.
    """
    checks.whole("max_length", max_length)
    vocabulary = module.config.vocab_size
    if not 0 <= alternatives <= vocabulary:
        raise InputError(
            f"alternatives = {alternatives}; it must be from 0 (none) to the size of "
            f"the vocabulary, {vocabulary}."
        )
    if alternatives:
        spec.check_distributions()
    choose = None
    if spec.method == "sample":
        if rng is None:
            raise InputError("Sampling needs a random key. Pass rng.")
        choose = single.sampled(spec, rng)
    source = Source(module, params, encoder_input_tokens, max_length, spec.weights)
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
