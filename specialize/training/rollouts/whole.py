"""A loss that compares whole distributions on the texts that the student wrote.

The teacher on the mesh reads the packed batch within the step, so nothing of it is
stored: neither teacher rows nor states. Targets of the corpus keep the loss of their
rows. A batch has the teacher's weights under `TEACHER`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from specialize.student.loss import losses
from specialize.student.loss.losses import LossSums
from specialize.student.loss.spec import PART
from specialize.student.model import Student
from specialize.student.network.transformer import Transformer, head_kernel
from specialize.training.optimization.step import TEACHER


class WholeStudent(Student):
    """A student whose own texts are compared with a teacher's network.

    Args:
        student: the student; its loss has the parts of its own texts last.
        teacher: network of the teacher.

    Raises:
        InputError: the loss mode has no form over the whole vocabulary.
    """

    def __init__(self, student: Student, teacher: Transformer) -> None:
        student.loss.check_whole_vocabulary()
        self.__dict__.update(vars(student))
        self._teacher = Student(teacher)

    def loss_sums(
        self,
        params: Any,
        batch: Mapping[str, Any],
        dropout_rng: jax.Array | None = None,
    ) -> LossSums:
        """As `Student.loss_sums`; without a teacher in the batch it is the same."""
        batch = dict(batch)
        teacher = batch.pop(TEACHER, None)
        if teacher is None:
            return super().loss_sums(params, batch, dropout_rng)
        targets, formats = batch["decoder_target_tokens"], batch["decoder_format_ids"]
        own = formats // PART > len(self.loss.parts) - self.loss.written
        weights = batch.get("decoder_loss_weights", targets > 0).astype(jnp.float32)
        hidden = self._apply(params, batch, dropout_rng, return_hidden=True)
        states = self._teacher._apply(teacher, batch, None, return_hidden=True)
        head = head_kernel(params, self.module.config)
        of_rows = losses.fused_distillation_loss(
            hidden,
            head,
            targets,
            batch["decoder_teacher_ids"],
            batch["decoder_teacher_probs"],
            batch["decoder_teacher_tail"],
            weights * ~own,
            formats,
            self.loss,
        )
        of_own = losses.whole_vocabulary_loss(
            hidden,
            head,
            jax.lax.stop_gradient(states),
            head_kernel(teacher, self._teacher.module.config),
            targets,
            weights * own,
            formats,
            dataclasses.replace(self.loss, ce_weight=0.0),
        )
        return LossSums(
            of_rows.loss + of_own.loss,
            of_rows.weight + of_own.weight,
            _joined(of_rows.metrics, of_own.metrics),
        )


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """(sum, count) pairs of both; what only one of them has is as it is."""
    found = {**one, **other}
    for name in one.keys() & other.keys():
        found[name] = tuple(a + b for a, b in zip(one[name], other[name], strict=True))
    return found
