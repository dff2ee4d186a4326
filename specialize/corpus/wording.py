r"""The wording of the four formats: templates of prompts and targets.

q is the question, n the gold answer, r the human rationale or a teacher's text. The
default is that of Fu et al. (ICML 2023):

| format | encoder text | decoder text |
|---|---|---|
| zero_shot_answer_only | `Q: {q} A:` | `The answer is {n}` |
| zero_shot_cot | `Q: {q}\nLet's think step by step` | `{r}\nThe answer is {n}` |
| in_context_answer_only | demonstrations, then `Q: {q}\nA:` | `The answer is {n}` |
| in_context_cot | demonstrations, then as zero_shot_cot | `{r}\nThe answer is {n}` |

A demonstration is the encoder text, a line break (CoT) or a blank (answer-only), and
the decoder text; `\n\n` separates it from what follows.
"""

import dataclasses
from collections.abc import Mapping

from specialize.corpus.choices import FORMATS
from specialize.corpus.templates import Template, template
from specialize.errors import InputError

STEP_BY_STEP = "Let's think step by step"
# What a teacher writes between the question and its first step.
BREAK = "\n"
PAPER_INPUTS = {
    "in_context_cot": f"Q: {{question}}\n{STEP_BY_STEP}",
    "in_context_answer_only": "Q: {question}\nA:",
    "zero_shot_cot": f"Q: {{question}}\n{STEP_BY_STEP}",
    "zero_shot_answer_only": "Q: {question} A:",
}
PAPER_MARK = "The answer is"
# The names in braces of the other templates, in order.
NAMES = {
    "target": ("rationale", "closing"),
    "closing": ("answer",),
    "teacher": ("question",),
}


@dataclasses.dataclass(frozen=True)
class Wording:
    """The wording of the formats.

    Attributes:
        inputs: Template of the query of each of `FORMATS`, with {question}.
        target: Template of a CoT target, with {rationale} and then {closing}.
        closing: Template of the sentence with the {answer}.
        separator: Text after a demonstration.
        teacher: Template of the question in the prompt of a teacher.

    Raises:
        InputError: A template lacks a name or has an unknown one.
    """

    inputs: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: dict(PAPER_INPUTS)
    )
    target: str = "{rationale}\n{closing}"
    closing: str = f"{PAPER_MARK} {{answer}}"
    separator: str = "\n\n"
    teacher: str = f"Question: {{question}}\n{STEP_BY_STEP}"

    def __post_init__(self) -> None:
        for name in FORMATS:
            Template(self.inputs[name]).require(f"formats.{name}", ["question"])
        for name, needed in NAMES.items():
            Template(getattr(self, name)).require(f"formats.{name}", needed)
        if not self.separator[:1].isspace() or "\n" not in self.separator:
            raise InputError(
                f"formats.separator is {self.separator!r}, expected a text that begins "
                "with white space and has a line break, such as '\\n\\n'."
            )

    def input(self, format: str, question: str) -> str:
        """The encoder text of a question without demonstrations."""
        return self._input(format).fill({"question": question})

    def question(self, format: str, text: str) -> str | None:
        """The question in an encoder text without demonstrations, or None."""
        values = self._input(format).read(text)
        return None if values is None else values["question"]

    def final(self, answer: str) -> str:
        """The sentence with the answer."""
        return self._closing.fill({"answer": answer})

    def solution(self, rationale: str, answer: str) -> str:
        """The CoT target of a rationale and an answer."""
        rationale, closing = rationale.strip(), self.final(answer)
        if not rationale:
            return closing
        return template(self.target).fill({"rationale": rationale, "closing": closing})

    def parts(self, target: str) -> tuple[str, str] | None:
        """(rationale, answer) of a target; None if it is not of this wording."""
        pieces = template(self.target).pieces
        whole = Template(
            "".join(
                literal.replace("{", "{{").replace("}", "}}")
                + {None: "", "rationale": "{rationale}", "closing": self.closing}[name]
                for literal, name in pieces
            )
        )
        if values := whole.read(target):
            return values["rationale"], values["answer"]
        values = self._closing.read(target)
        return None if values is None else ("", values["answer"])

    def demonstration(self, format: str, question: str, target: str) -> str:
        """A solved question, with the separator after it."""
        joiner = "\n" if format.endswith("_cot") else " "
        return f"{self.input(format, question)}{joiner}{target}{self.separator}"

    def boundary(self, format: str) -> tuple[str, str]:
        """(text after a demonstration, text before the question of the next one)."""
        return self.separator, self._input(format).pieces[0][0]

    def asked(self, question: str) -> str:
        """The question as a teacher is asked."""
        return template(self.teacher).fill({"question": question})

    @property
    def before_a_text(self) -> "Wording":
        """The wording of a prompt that a given text follows, which is then scored.

        A teacher that is asked for a text begins it with a line break. A given text
        begins with its first step, so the break is the last character of the prompt: a
        teacher would read "step by stepThere are", and one token may hold both words.
        """
        if self.teacher[-1:].isspace():
            return self
        return dataclasses.replace(self, teacher=self.teacher + BREAK)

    @property
    def judged_mark(self) -> str:
        """The text before the answer in `closing`, if a judge does not know it."""
        mark = self._closing.pieces[0][0].strip()
        return "" if mark == PAPER_MARK else mark

    @property
    def closing_words(self) -> str:
        """The words before the answer that begin a line of a CoT target, or ""."""
        before_closing = template(self.target).pieces[1][0]
        words = self._closing.pieces[0][0].strip()
        return words if before_closing.endswith("\n") else ""

    def _input(self, format: str) -> Template:
        return template(self.inputs[format])

    @property
    def _closing(self) -> Template:
        return template(self.closing)


PAPER = Wording()
