"""The objective of a training. A light module, which gin and the lint read quickly."""

import dataclasses
from collections.abc import Iterable

from specialize import checks
from specialize.errors import InputError

# The prompt formats, in the order of their ids, from 1, as in a corpus.
FORMATS = (
    "in_context_cot",
    "in_context_answer_only",
    "zero_shot_cot",
    "zero_shot_answer_only",
)
# A batch's format id is the format plus this number times the part of the mixture.
PART = 16
MODES = (
    *("tail", "paper", "renormalize", "conditional"),
    *("reverse", "jsd", "skew", "sample"),
)
# Those that have a form where the teacher reports all probabilities.
WHOLE_VOCABULARY_MODES = ("tail", "reverse", "jsd", "skew", "sample")
# Least weight of the teacher in a mixture. In float32 the odds of two events end at
# about 1e37, and with a smaller weight the mixture would depend on that end.
LEAST_SHARE = 1e-30
# Metrics of target positions, in all and per format and part; the second need teacher
# rows, the third is there if `z_loss` is (`diagnostics`).
METRICS = ("loss", "ce", "accuracy")
ROW_METRICS = (
    *("kl", "soft_kl", "soft_share", "teacher_entropy", "kept_mass"),
    *("student_mass", "top1_agreement", "topk_overlap"),
)
Z_LOSS = "z_loss"


def parts_with(metric: str, names: Iterable[str]) -> list[str]:
    """The parts of a mixture that have a metric among these: "flan" of "flan/kl"."""
    ends = f"/{metric}"
    found = [name.removesuffix(ends) for name in names if name.endswith(ends)]
    return [one for one in dict.fromkeys(found) if one not in FORMATS]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The objective that is minimised; hashable, so jit may treat it as static.

    A target position costs `kl_weight * KL + ce_weight * CE + z_loss * logsumexp^2`,
    in nats. KL is the mode's term, where p are the teacher's probabilities on its K
    ids, M is their sum, q are the student's probabilities, Q is their sum on these ids:

    - `tail`: sum p log(p/q) + (1-M) log((1-M)/(1-Q)), a KL on K+1 events.
    - `paper`: sum p log(p/q) with p as it is; its minimum M log M is negative.
    - `renormalize`: KL(p/M || q), at `temperature` T times T^2.
    - `conditional`: KL(p/M || q/Q) on the K ids; it ignores the mass off K.
    - `reverse`: the KL of `tail` with both sides exchanged; the teacher's tail is at
      least 1e-6.
    - `jsd`: (b KL(p||m) + (1-b) KL(q||m)) / (b (1-b)) on the K+1 events of `tail`, with
      m = b p + (1-b) q and b = `jsd_beta`.
    - `skew`: KL(p || a p + (1-a) q) on the K+1 events, with a = `skew_alpha`.
    - `sample`: -log q(target).

    Attributes:
        mode: one of `MODES`.
        kl_weight: weight of the mode's term.
        ce_weight: weight of the cross-entropy on the target ids.
        z_loss: weight of the squared logsumexp, which keeps logits from drifting.
        temperature: loss temperature of teacher and student, for `renormalize` only.
        jsd_beta: weight of the teacher in the mixture of `jsd`, from `LEAST_SHARE` to
            below 1: near 0 it is `tail`, near 1 `reverse`.
        skew_alpha: weight of the teacher in the mixture of `skew`, in the same range.
        parts: name and weight of each part of a mixture, in its order
            (`specialize_tasks.mixing`). The positions of a part count this often in the
            loss, and have metrics under its name.
        written: number of the last parts, whose targets the student wrote itself. They
            are no answers to be learnt, so `ce_weight` is 0 for them.

    Raises:
        InputError: a value is unknown or outside its range, there is nothing to
            minimise, or a combination has no meaning.
    """

    mode: str = "tail"
    kl_weight: float = 1.0
    ce_weight: float = 0.0
    z_loss: float = 0.0
    temperature: float = 1.0
    parts: tuple[tuple[str, float], ...] = ()
    jsd_beta: float = 0.5
    skew_alpha: float = 0.1
    written: int = 0

    def __post_init__(self):
        checks.one_of("loss mode", self.mode, MODES)
        for name in ("kl_weight", "ce_weight", "z_loss"):
            checks.real(name, getattr(self, name), least=0)
        if self.kl_weight == 0 and self.ce_weight == 0:
            raise InputError(
                "kl_weight and ce_weight are both 0: there is nothing to learn. "
                "Give one of them a positive value."
            )
        checks.real("temperature", self.temperature, above=0)
        for name in ("jsd_beta", "skew_alpha"):
            checks.real(name, getattr(self, name), above=0)
            if getattr(self, name) >= 1:
                raise InputError(
                    f"{name} = {getattr(self, name)}; it must be a number below 1."
                )
            if getattr(self, name) < LEAST_SHARE:
                raise InputError(
                    f"{name} = {getattr(self, name)}; it must be at least "
                    f"{LEAST_SHARE:g} and below 1. The limit for smaller values is "
                    "mode 'tail'."
                )
        for name, weight in self.parts:
            if name in FORMATS:
                raise InputError(
                    f"a part of the mixture is called {name!r}, as a prompt format "
                    "whose metrics have this name. Rename its file or folder."
                )
            checks.real(f"the loss weight of {name!r}", weight, above=0)
        if self.temperature != 1 and self.mode != "renormalize":
            raise InputError(
                f"temperature {self.temperature} with mode {self.mode!r}: only the K "
                "known probabilities have a temperature, not the mass off them, whose "
                "distribution is unknown. Use mode 'renormalize', or temperature 1."
            )
        if self.mode == "conditional" and self.ce_weight == 0:
            raise InputError(
                "mode 'conditional' ignores the mass that the student puts off the "
                "teacher's ids. Give ce_weight a positive value, or use mode 'tail'."
            )

        checks.whole("written", self.written, 0, most=len(self.parts))
        if self.written:
            self.check_written()

    def check_written(self) -> None:
        """Raises an `InputError` if it has no form for texts of the student itself."""
        if self.mode == "sample" or self.kl_weight == 0:
            raise InputError(
                f"loss mode {self.mode!r} with kl_weight {self.kl_weight}: texts that "
                "the student writes itself (ON_POLICY_SHARE) are no answers to be "
                "learnt, and nothing compares them with the teacher. Use mode 'tail' "
                "and a positive kl_weight."
            )
        if self.mode == "conditional":
            raise InputError(
                "mode 'conditional' ignores the mass that the student puts off the "
                "teacher's ids, and texts that it writes itself (ON_POLICY_SHARE) have "
                "no cross-entropy that would hold it. Use mode 'tail'."
            )

    def check_whole_vocabulary(self) -> None:
        """Raises an `InputError` if the mode has no form over the whole vocabulary."""
        if self.mode not in WHOLE_VOCABULARY_MODES:
            raise InputError(
                f"loss mode {self.mode!r} is for the K known probabilities of a row; a "
                "teacher with all probabilities (ROLLOUT_WHOLE_VOCABULARY) has "
                f"{', '.join(WHOLE_VOCABULARY_MODES)}. Choose one."
            )
