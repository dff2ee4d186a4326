"""The versions of our files: known versions are read, others are refused.

docs/formats.md describes the files. A file of 0.1 that states no version has version 1.
"""

import reprlib
from typing import Any, NamedTuple

from specialize import __version__
from specialize.errors import InputError


class Format(NamedTuple):
    """A kind of file, the remedy for an unknown version, and the versions we read."""

    name: str
    remedy: str
    reads: tuple[int, ...] = (1,)
    file: str = ""  # its name, where it has one and several rooms look for it

    @property
    def writes(self) -> int:
        """The version that we write: the last of `reads`."""
        return self.reads[-1]

    def check(self, found: Any, where: object) -> None:
        """Raises an `InputError` if `found`, the version of `where`, is unknown."""
        if found not in self.reads:
            known = ", ".join(map(str, self.reads))
            raise InputError(
                f"{where} is a {self.name} of version {reprlib.repr(found)}; "
                f"specialize {__version__} reads version {known}. "
                f"Use the version that wrote it, or {self.remedy}."
            )


FOLDER = Format("folder of specialize", "name another folder")
CORPUS = Format(
    "corpus",
    "build the corpus again with 'specialize corpus build'",
    file="corpus.json",
)
CARD = Format("card of completions", "make the file beside it again")
RESPONSES = Format("response database", "name another --responses and sample anew")
EXAMPLES = Format("folder of prepared examples", "remove it: it is made again")
ROLLOUTS = Format("file of rollouts", "remove it: the student writes others")
CONFIGURATION = Format("run's configuration", "remove this file")
CHECKPOINT = Format("checkpoint", "name an older checkpoint or another MODEL_DIR")
DECODED = Format("file of decoded texts", "remove it to decode again")
RESULTS = Format("results file", "evaluate again to replace it")
STUDY = Format("study", "run the study again to replace it", file="study.json")
BEGUN = Format(
    "record of what a study has begun", "remove the folder of the cell to run it again"
)
MERGE = Format("record of a merge", "remove the folder", file="merge.json")
PREDICTIONS = Format("line of predictions", "write the predictions again")
T5X = Format("checkpoint of T5X", "convert it with T5X", (0, 1, 2, 3))
