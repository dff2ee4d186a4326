"""The specification of a task, as a task file (`files`) or a notebook describes it."""

import dataclasses
from collections.abc import Mapping, Sequence

from specialize import checks
from specialize.corpus.wording import Wording
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec

# What splits a task's questions may have.
SPLITS = ("train", "validation", "test")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Field:
    r"""How one part of a problem is read from a row of a data file.

    Attributes:
        template: Text with names of columns in braces, such as "{Body} {Question}".
            "{a.b}" is column b of the object in column a, unless a column has this
            name; "{x|sentence}" ends with a full stop; "{@file}" and "{@index}" are
            the name of the file without its ending and the number of the row.
        pattern: Regular expression that finds the part in this text: the first group
            that matched, or all that it matches; the last match counts. None: the whole
            text.
        remove: Regular expressions whose matches are deleted.
        values: What is written for a value of the column, such as {"1": "yes"}.
        default: Template for rows without the columns; None: they are an error.
    """

    template: str
    pattern: str | None = None
    remove: Sequence[str] = ()
    values: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    default: str | None = None


@dataclasses.dataclass(frozen=True)
class Choices:
    """The options of multiple-choice questions.

    Attributes:
        columns: One column that holds a list of texts (or an object with "label" and
            "text" lists), or one column per option.
        template: An option in the question.
        separator: Text between two options.
        first: Number of the first option where an answer is a number.
    """

    columns: Sequence[str]
    template: str = "({label}) {choice}"
    separator: str = "\n"
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where the rows of the questions are, and how each becomes a problem.

    Attributes:
        question: The question. Without "{choices}" in its template, the options of a
            question follow on lines of their own.
        answer: The accepted answer, or a column with a list of them.
        rationale: The human solution without the answer, or None.
        id: Identifies a row; None numbers the rows of a file.
        choices: The options, or None.
        records: Name of the list in a JSON object, or of the element in XML.
        unique: What no two rows of a file may share: "id" or "question".
        unanswerable: Whether a row whose answer is not of the task's type is a
            question that nothing answers, instead of an error.
    """

    question: Field
    answer: Field
    rationale: Field | None = None
    id: Field | None = None
    choices: Choices | None = None
    records: str | None = None
    unique: str = "id"
    unanswerable: bool = False


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of a task, relative to the folder of its data.

    Attributes:
        train: Solved questions.
        validation: Questions for choosing a checkpoint. None: a share of `test`.
        test: Questions for the final score.
        validation_share: (a, b): a of b questions of the test file, by a hash of their
            ids, are the validation split.
        prompt: A text file with the demonstrations of in-context prompts.
        hub: Glob patterns of the same files in a dataset of the Hugging Face hub, by
            split, where its layout is another.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_share: tuple[int, int] = (1, 5)
    prompt: str | None = None
    hub: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """One task: its questions, answers, wording and files.

    Attributes:
        name: Letters, digits and underscores; the names of SeqIO's tasks, of the
            suite and of the problems begin with it.
        rows: How rows become problems.
        judge: Type of the answers, and who judges them.
        wording: The four formats.
        files: Where the data are.
        subtasks: Type of the answers of each sub-task, if every sub-task has a file of
            its own; "{subtask}" in a path of `files` is then its name.
        demonstrations: Name of the shipped task whose training questions are the
            demonstrations; None: this task's own.
        licence: Licence of the owners' files; "unknown" if it is not stated.
        published: First 16 digits of the SHA-256 of the owners' files, to which the
            licence applies. Empty: to any file.
        folder: Folder that relative paths begin at; None: the benchmarks folder.
        digest: Digest of the settings, for fingerprints.

    Raises:
        InputError: A name or value is not valid.
    """

    name: str
    rows: Rows
    judge: JudgeSpec = JudgeSpec(answer_type="number")
    wording: Wording = Wording()
    files: Files = Files()
    subtasks: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    demonstrations: str | None = None
    licence: str = "unknown"
    published: Sequence[str] = ()
    folder: str | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        checks.one_of("fields.unique", self.rows.unique, ("id", "question"))
        if not self.name.isidentifier():
            raise InputError(
                f"the name of the task is {self.name!r}. Use letters, digits and "
                "underscores, and begin with a letter."
            )
