"""`Student`: network, loss and decoding in one object.

It follows the model contract of T5X by duck typing: the same object trains on both
engines. Our engine calls `loss_sums`, which does not divide; T5X calls `loss_fn`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from specialize.errors import InputError
from specialize.student.decoding.decoding import Generated, generate
from specialize.student.decoding.spec import GenerationSpec
from specialize.student.loss import losses
from specialize.student.loss.losses import LossConfig, LossSums
from specialize.student.network.transformer import Transformer, head_kernel

Batch = Mapping[str, Array]

# Optional keys of a batch; the network has arguments of the same names.
_PACKING = (
    "encoder_segment_ids",
    "decoder_segment_ids",
    "encoder_positions",
    "decoder_positions",
)

# T5X's names of the number by which the loss sum is divided.
_NORMALIZERS = ("NUM_REAL_TARGET_TOKENS", "NUM_TOTAL_TARGET_TOKENS")


class Student:
    """A T5 that learns from sparse teacher distributions.

    Args:
        module: the network.
        input_vocabulary: SeqIO vocabulary of the inputs, which T5X compares with the
            task's. Our engine does not use it.
        output_vocabulary: SeqIO vocabulary of the targets, likewise.
        optimizer_def: optimizer of T5X; our engine has its own.
        feature_converter_cls: SeqIO feature converter, with which T5X makes batches.
        loss: the objective of `loss_sums`.
        fused: whether the loss applies the output head itself, chunk by chunk, so that
            logits [B L V] never exist. The result is the same.
        loss_normalizing_factor: divisor of `loss_fn`, as in T5X: None (the sum), a
            number, "NUM_REAL_TARGET_TOKENS" (the batch's weights) or
            "NUM_TOTAL_TARGET_TOKENS" (padding included).
        decoding: how `predict_batch` generates ids. It returns [B n L] for several
            sequences per input.
        eos_id: the id that ends a sequence. None: that of `output_vocabulary`, or 1
            without one. Our engine takes it from its own vocabulary.

    Raises:
        InputError: an unknown `loss_normalizing_factor`.
    """

    FEATURE_CONVERTER_CLS: Any = None

    def __init__(
        self,
        module: Transformer,
        input_vocabulary: Any = None,
        output_vocabulary: Any = None,
        *,
        optimizer_def: Any = None,
        feature_converter_cls: Any = None,
        loss: LossConfig = losses.DEFAULT,
        fused: bool = True,
        loss_normalizing_factor: Any = "NUM_REAL_TARGET_TOKENS",
        decoding: GenerationSpec = GenerationSpec(),
        eos_id: int | None = None,
    ):
        self.module = module
        self.input_vocabulary = input_vocabulary
        self.output_vocabulary = output_vocabulary
        self.optimizer_def = optimizer_def
        self.loss = loss
        self.fused = fused
        self._normalizer = _normalizer(loss_normalizing_factor)
        if feature_converter_cls is not None:
            self.FEATURE_CONVERTER_CLS = feature_converter_cls
        self.decoding = decoding
        self._eos_id = eos_id

    @property
    def eos_id(self) -> int:
        """The id that ends a sequence; the vocabulary is read at the first use."""
        if self._eos_id is not None:
            return self._eos_id
        found = getattr(self.output_vocabulary, "eos_id", None)
        return 1 if found is None else int(found)

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, Any],
        input_types: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Returns initial {"params", "params_axes"} for batches of these shapes.

        Args:
            rng: random key.
            input_shapes: shapes of the batch by key; only those of the tokens are used.
            input_types: ignored; tokens are int32.
        """
        del input_types  # T5X passes float32 by default, for token ids too

        def ones(key: str) -> Int[Array, "B L"]:
            return jnp.ones(tuple(input_shapes[key]), jnp.int32)

        variables = self.module.init(
            rng,
            ones("encoder_input_tokens"),
            ones("decoder_input_tokens"),
            ones("decoder_input_tokens"),
            enable_dropout=False,
        )
        return dict(variables)

    def loss_sums(
        self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None = None
    ) -> LossSums:
        """Returns sums of loss, weight and metrics over the batch's target positions.

        Args:
            params: parameters of the network.
            batch: SeqIO's encoder-decoder features and, for distillation,
                `decoder_teacher_ids` [B L K], `decoder_teacher_probs` [B L K],
                `decoder_teacher_tail` [B L] and `decoder_format_ids` [B L]. Without
                teacher rows the loss is the cross-entropy.
            dropout_rng: random key of dropout. None: no dropout.

        Raises:
            InputError: the batch has only some of the teacher's keys.
        """
        targets = batch["decoder_target_tokens"]
        weights = batch.get("decoder_loss_weights", targets > 0)
        teacher = tuple(
            batch.get(f"decoder_teacher_{part}") for part in ("ids", "probs", "tail")
        )
        arguments: tuple[Any, ...] = (
            targets,
            *teacher,
            weights.astype(jnp.float32),
            batch.get("decoder_format_ids"),
            self.loss,
        )
        outputs = self._apply(params, batch, dropout_rng, return_hidden=self.fused)
        if self.fused:
            head = head_kernel(params, self.module.config)
            return losses.fused_distillation_loss(outputs, head, *arguments)
        return losses.distillation_loss(outputs, *arguments)

    def loss_fn(
        self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """Returns (loss over `loss_normalizing_factor`, clu metrics)."""
        from clu import metrics as clu_metrics

        average: Any = clu_metrics.Average
        sums = self.loss_sums(params, batch, dropout_rng)
        metrics: dict[str, Any] = {
            name: average(total=total, count=count)
            for name, (total, count) in sums.metrics.items()
        }
        metrics["loss"] = average(total=sums.loss, count=sums.weight)
        if self._normalizer is None:
            return sums.loss, metrics
        divisor = self._normalizer
        if divisor == "NUM_REAL_TARGET_TOKENS":
            divisor = jnp.maximum(sums.weight, jnp.finfo(jnp.float32).tiny)
        elif divisor == "NUM_TOTAL_TARGET_TOKENS":
            divisor = batch["decoder_target_tokens"].size
        return sums.loss / divisor, metrics

    def eval_fn(
        self, params: PyTree, batch: Batch
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        """Returns what `loss_fn` returns without dropout."""
        return self.loss_fn(params, batch, None)

    def predict_batch(
        self, params: PyTree, batch: Batch, rng: jax.Array | None = None
    ) -> Int[Array, "B L"] | Int[Array, "B n L"]:
        """Returns decoded ids; L is the length of the batch's decoder features."""
        return self._generate(params, batch, rng).tokens

    def predict_batch_with_aux(
        self, params: PyTree, batch: Batch, rng: jax.Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Returns decoded ids and {"scores": their log-probabilities in nats}."""
        generated = self._generate(params, batch, rng)
        return generated.tokens, {"scores": generated.scores}

    def score_batch(self, params: PyTree, batch: Batch) -> Float[Array, " B"]:
        """Returns the log-probability of each sequence's targets, in nats."""
        logits = self._apply(params, batch, None)
        targets = batch["decoder_target_tokens"]
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        logprobs = chosen - jax.nn.logsumexp(logits, axis=-1)
        weights = batch.get("decoder_loss_weights", targets > 0)
        return jnp.sum(logprobs * weights.astype(jnp.float32), axis=-1)

    def _apply(
        self,
        params: PyTree,
        batch: Batch,
        dropout_rng: jax.Array | None,
        *,
        return_hidden: bool = False,
    ) -> jax.Array:
        packing: dict[str, Any] = {key: batch[key] for key in _PACKING if key in batch}
        outputs: Any = self.module.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            **packing,
            enable_dropout=dropout_rng is not None,
            return_hidden=return_hidden,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
        )
        return outputs

    def _generate(
        self, params: PyTree, batch: Batch, rng: jax.Array | None
    ) -> Generated:
        return generate(
            self.module,
            params,
            batch["encoder_input_tokens"],
            self.decoding,
            max_length=batch["decoder_input_tokens"].shape[1],
            rng=rng,
            eos_id=self.eos_id,
        )


def _normalizer(factor: Any) -> Any:
    """Checks None, a number or one of `_NORMALIZERS`, also as T5X's enumeration."""
    name = getattr(factor, "name", factor)
    if isinstance(name, str):
        if name.upper() not in _NORMALIZERS:
            raise InputError(
                f"loss_normalizing_factor = {name!r}; it can be None, a number, "
                f"{' or '.join(_NORMALIZERS)}."
            )
        return name.upper()
    if factor is not None and not factor > 0:
        raise InputError(f"loss_normalizing_factor = {factor}; it must be above 0.")
    return factor
