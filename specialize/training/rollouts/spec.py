"""On-policy distillation. A light module, which gin and the lint read quickly."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

from specialize import checks
from specialize.corpus.sampling.spec import (
    MOST_ALTERNATIVES,
    MOST_AT_ONCE,
    check_scores,
    check_url,
)
from specialize.corpus.tasks.known import find
from specialize.errors import InputError
from specialize.student.decoding.spec import LEAST_TEMPERATURE

# Whether a run is to end before its next step.
Ends = Callable[[], bool]
# A window of more steps learns from weights that are too old, and fills the memory.
MOST_STEPS = 100


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
    """Which targets the student writes itself, and who says how likely they are.

    Attributes:
        share: share of the examples, drawn at random, whose target is a text that the
            student samples from their inputs. 0: none; 1: all.
        teacher: T5 checkpoint with the student's vocabulary, in any layout that
            `convert` reads; it is loaded onto the mesh and reads the student's inputs.
        server: base URL of a served teacher with any vocabulary, instead; it reads
            its own prompts (`prompt_path`, the problems, the wording of the task), and
            only examples of chain-of-thought formats are written.
        model: name of the served model.
        prompt_path: text before the question in the served teacher's prompts.
        problems_path: the questions of the corpus. A served teacher needs them; with
            them the student's texts are judged.
        task: how the problems are read: a task, its name or its file; None: the
            default task.
        steps: number of steps whose texts are written at once, with the weights before
            the first of them. None: as few as fill `batch_size`, at most
            `MOST_STEPS`.
        batch_size: number of texts that are written at a time; rounded up to a
            multiple of the devices that split a batch.
        temperature: sampling temperature of the student's texts.
        top_k: number of entries of the teacher rows of these texts, at least 1.
        whole_vocabulary: whether the loss compares whole distributions with `teacher`
            on these texts, instead of rows of `top_k` ids.
        concurrency: number of requests to a server at once.
        api_key_env: environment variable that holds the server's key.
        vocabulary_path: the student's vocabulary. None: the environment variable
            SPECIALIZE_VOCABULARY.

    Raises:
        InputError: a field has another type or is outside its range, or there is not
            exactly one teacher.

    Example:
        >>> specialize.RolloutSpec(0.5, teacher="google/flan-t5-xl").on
        True
    """

    share: float = 0.0
    teacher: str | None = None
    server: str | None = None
    model: str | None = None
    prompt_path: str | os.PathLike[str] | None = None
    problems_path: str | os.PathLike[str] | None = None
    task: str | os.PathLike[str] | None = None
    steps: int | None = None
    batch_size: int = 32
    temperature: float = 1.0
    top_k: int = 5
    whole_vocabulary: bool = False
    concurrency: int = 16
    api_key_env: str = "OPENAI_API_KEY"
    vocabulary_path: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        checks.real("the on-policy share", self.share, least=0.0, most=1.0)
        for name in ("teacher", "server", "model"):
            checks.text(name, getattr(self, name))
        checks.whole("steps", self.steps, optional=True)
        checks.whole("batch_size", self.batch_size)
        checks.real("temperature", self.temperature, least=LEAST_TEMPERATURE)
        checks.whole("top_k", self.top_k)
        if self.server is not None:
            # The largest number of alternatives that a request may ask for.
            checks.whole("top_k", self.top_k, most=MOST_ALTERNATIVES)
        checks.flag("whole_vocabulary", self.whole_vocabulary)
        if self.whole_vocabulary and self.server is not None:
            raise InputError(
                "whole_vocabulary = True: a server reports a few probabilities. Name a "
                "T5 checkpoint (ROLLOUT_TEACHER), or set ROLLOUT_WHOLE_VOCABULARY = "
                "False."
            )
        checks.whole("concurrency", self.concurrency, most=MOST_AT_ONCE)
        checks.path("prompt_path", self.prompt_path)
        checks.path("problems_path", self.problems_path)
        checks.path("task", self.task)
        if self.task is not None and os.path.splitext(self.task)[1] == "":
            find(self.task)  # a shipped task
        if self.server is not None:
            check_url(self.server, "server")
            check_scores(self.server, "server")
        checks.text("api_key_env", self.api_key_env)
        if not (self.api_key_env or "").isidentifier():
            raise InputError(
                "api_key_env is not the name of an environment variable. What was "
                "given is not printed: it may be a key."
            )
        if not self.on:
            return
        if (self.teacher is None) == (self.server is None):
            given = "both" if self.teacher else "none"
            raise InputError(
                f"an on-policy share of {self.share} needs one teacher, but {given} is "
                "named. Name a T5 checkpoint (ROLLOUT_TEACHER) or a server "
                "(ROLLOUT_SERVER)."
            )
        if self.server is not None and None in (self.model, self.problems_path):
            raise InputError(
                f"the teacher at {self.server} needs the name of its model "
                "(ROLLOUT_MODEL) and the questions of the corpus "
                "(ROLLOUT_PROBLEMS_PATH)."
            )

    @property
    def on(self) -> bool:
        """Whether the student writes any target."""
        return self.share > 0

    def entries(self, corpus: Iterable[int]) -> int:
        """K of a batch, which has teacher rows in any case.

        Args:
            corpus: K of each part of the corpus that has teacher rows.
        """
        return max([self.top_k, *corpus])

    def identity(self) -> dict[str, Any]:
        """What the texts depend on; a resumed run must have the same."""
        names = ("share", "server", "model", "temperature", "top_k")
        names += ("whole_vocabulary",)
        return identity_of(**{name: getattr(self, name) for name in names})


def identity_of(server: str | None, **fields: Any) -> dict[str, Any]:
    """An identity, with the kind of the teacher instead of the place where it is.

    A server may have moved, and a checkpoint, whose fingerprint is compared.
    """
    return {**fields, "teacher": "T5" if server is None else "server"}
