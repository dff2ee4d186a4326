r"""The official prompts of BIG-Bench Hard, read from the files of their owners.

The owners' prompt files begin with a canary line and "-----", which are not part of the
prompt. An instruction and three demonstrations follow:

    Sort a list of words.

    Q: Sort the following words alphabetically: List: oven costume counterpart
    A: Let's think step by step.
    The first letter: ... So the answer is costume counterpart oven.

The answer-only prompt has only the question and answer of each demonstration ("A:
costume counterpart oven"), like the owners' own answer-only prompts.
"""

import dataclasses
import pathlib
import re

from specialize.errors import InputError

STEP_BY_STEP = "Let's think step by step."

_CANARY = re.compile(r"\A[^\n]*canary[^\n]*\n(?:-{3,}\s*\n)?", re.IGNORECASE)
_EXAMPLE = re.compile(r"(?:^|\n\n)Q: ")
_ANSWER = re.compile(r"\bthe answer is\s+", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Demonstration:
    """One demonstration of an official prompt.

    Attributes:
        question: Its text.
        rationale: Text between "A:" and "So the answer is".
        answer: Text after "So the answer is", without the full stop.
    """

    question: str
    rationale: str
    answer: str


@dataclasses.dataclass(frozen=True, slots=True)
class OfficialPrompt:
    """The parts of the official prompt of one task.

    Attributes:
        instruction: Text before the first demonstration.
        demonstrations: The demonstrations.
        text: The whole prompt without the canary line.
    """

    instruction: str
    demonstrations: tuple[Demonstration, ...]
    text: str

    def render(self, question: str, *, answer_only: bool) -> str:
        """The encoder text of one question after the demonstrations."""
        if not answer_only:
            return f"{self.text}\n\nQ: {question}\nA: {STEP_BY_STEP}"
        solved = [f"Q: {one.question}\nA: {one.answer}" for one in self.demonstrations]
        opening = [self.instruction] if self.instruction else []
        return "\n\n".join([*opening, *solved, f"Q: {question}\nA:"])


def read_prompt(path: pathlib.Path) -> OfficialPrompt:
    """Reads one file of `cot-prompts`, `<task>.txt`.

    Raises:
        InputError: The file is missing, or an example has no "A:" or "the answer is".
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). In-context prompts of BIG-Bench Hard "
            "need the owners' cot-prompts; use a zero-shot prompt or add the file."
        ) from error
    text = _CANARY.sub("", text).strip()
    instruction, *parts = _EXAMPLE.split(text)
    if not parts:
        raise InputError(f"{path}: no example that begins with 'Q: '.")
    demonstrations: list[Demonstration] = []
    for index, part in enumerate(parts):
        question, found, solution = part.partition("\nA:")
        marks = list(_ANSWER.finditer(solution))
        if not found or not marks:
            raise InputError(
                f"{path}: example {index} has no 'A:' with 'the answer is' after it."
            )
        # "So" before the mark belongs to the sentence with the answer.
        rationale = re.sub(r"\bSo\s*$", "", solution[: marks[-1].start()]).strip()
        answer = solution[marks[-1].end() :].strip().removesuffix(".").strip()
        demonstrations.append(Demonstration(question.strip(), rationale, answer))
    return OfficialPrompt(instruction.strip(), tuple(demonstrations), text)
