"""What is recorded of a cell or a stage: that it has begun, and that it is done.

A record in `begun/` is written before each command, and has the commands that have
begun and what they read. `done.json` in the folder of the cell is written last. What
was begun or made by other commands, or with another configuration, is refused: `train`
would go on with a run of other settings, which would count as one of the present ones.
"""

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from specialize import outputs, paths, run_folder, typed_json, versions
from specialize.errors import InputError
from specialize.evaluation.study.cells import Work
from specialize.evaluation.study.inputs import Inputs, differences, inputs_of

# A cell without its marker would be run again in the folder of the earlier run.
_REMEDY = "Remove its folder to run it again."
_TRAIN = "train"
# Not in the folder of a cell, which a command may need empty: it may be its output.
_FOLDER = "begun"


@dataclasses.dataclass(frozen=True)
class Made:
    """How something was made: by which commands, and what they read.

    Earlier versions did not record the inputs.
    """

    commands: list[list[str]]
    inputs: list[Inputs] | None = None


@dataclasses.dataclass(frozen=True)
class Done:
    """The content of a marker.

    Attributes:
        commands: The words of each command.
        seconds: Seconds of the commands.
        inputs: What each command read; earlier versions did not record it.
        stages: Name -> how each stage was made that a cell began with. Earlier versions
            did not record it.
    """

    commands: list[list[str]]
    seconds: float
    inputs: list[Inputs] | None = None
    stages: dict[str, Made] | None = None


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that has begun: its words, and what it read when it began."""

    words: list[str]
    inputs: Inputs


@dataclasses.dataclass(frozen=True)
class Begun:
    """The content of a record in `begun/`; earlier versions did not write it.

    Attributes:
        version: Version of the format.
        commands: Each command that has begun, in this start or an earlier one.
        stages: Name -> how each stage was made that the cell began with.
    """

    version: int
    commands: list[Command]
    stages: dict[str, Made]


def is_done(work: Work) -> bool:
    """Whether it was made by the same commands.

    Raises:
        InputError: As for `done_of`.
    """
    return done_of(work) is not None


def done_of(work: Work) -> Done | None:
    """The marker of what was made by the same commands; None if it is not made.

    Raises:
        InputError: It, or a stage that it began with, was made or begun by other
            commands, or with another configuration.
    """
    if not paths.exists(work.marker):
        begun_of(work)
        return None
    found = typed_json.read(paths.local(work.marker), Done, remedy=_REMEDY)
    made = Made(found.commands, found.inputs)
    _check(work, made, f"{work.marker}: {work.name}", "made")
    _check_stages(work, found.stages or {}, work.marker)
    return found


def made_of(work: Work) -> Made:
    """How something was made that is done.

    Raises:
        InputError: It is not done, or as for `done_of`.
    """
    found = done_of(work)
    if found is None:
        raise InputError(
            f"{work.marker}: {work.name} is not made. Run the study again."
        )
    return Made(found.commands, found.inputs)


def begun_of(work: Work) -> Begun | None:
    """What has begun, with the same commands; None if nothing has.

    The last command may be corrected, as it has not ended and begins anew: all commands
    write complete outputs or none, except a training that has saved a checkpoint.

    Raises:
        InputError: As for `done_of`, or the record has an unknown version.
    """
    url = _record_of(work)
    if not paths.exists(_folder_of(work)) or not paths.exists(url):
        return None
    file = paths.local(url)
    content = typed_json.read(file, typed_json.Object, remedy=_REMEDY)
    versions.BEGUN.check(content.get("version"), url)
    found = typed_json.convert(content, Begun, file, remedy=_REMEDY)
    kept = found.commands
    if kept and not _goes_on(kept[-1], work):
        kept = kept[:-1]
    made = Made([one.words for one in kept], [one.inputs for one in kept])
    part = dataclasses.replace(
        work, commands=work.commands[: len(kept)], record=work.record[: len(kept)]
    )
    _check(part, made, f"{url}: {work.name}", "begun")
    _check_stages(work, found.stages, url)
    return found


def begin(work: Work, number: int) -> Inputs:
    """Records that a command begins, and gives what it reads.

    Args:
        work: What it is a command of.
        number: Its number, from 0.

    Raises:
        InputError: As for `begun_of`, or the record cannot be written.
    """
    before = begun_of(work)
    commands = before.commands if before else []
    now = inputs_of(work.commands[number], work.study)
    if number < len(commands) and commands[number].words == work.record[number]:
        # What cannot be read now is compared later.
        was = commands[number].inputs
        now = Inputs(now.configuration or was.configuration, was.files | now.files)
    one = Command(work.record[number], now)
    begun = Begun(
        versions.BEGUN.writes,
        [*commands[:number], one, *commands[number + 1 :]],
        {name: made_of(stage) for name, stage in work.stages.items()},
    )
    outputs.write_json(_record_of(work), dataclasses.asdict(begun))
    if not paths.in_bucket(folder := _folder_of(work)):
        # Whoever removes it begins anew, wherever the commands write.
        os.makedirs(folder, exist_ok=True)
    return now


def _record_of(work: Work) -> str:
    return paths.joined(work.study, _FOLDER, f"{work.key}.json")


def _folder_of(work: Work) -> str:
    return paths.parent_of(work.marker)


def _goes_on(last: Command, work: Work) -> bool:
    """Whether a command that was stopped goes on with what it has made."""
    if last.words[:1] != [_TRAIN]:
        return False
    run: Any = (last.inputs.configuration or {}).get("MODEL_DIR")
    if not isinstance(run, str):
        return True  # it is not known where it saves checkpoints
    run = run.replace("{study}", work.study)
    return paths.exists(paths.joined(run, run_folder.CHECKPOINTS))


def _check_stages(work: Work, stages: Mapping[str, Made], url: str) -> None:
    for name, made in stages.items():
        if name in work.stages:
            stage = work.stages[name]
            where = f"{url}: {stage.name}, with which {work.name} began,"
            _check(stage, made, where, "made", _folder_of(work))


def _check(work: Work, made: Made, where: str, verb: str, folder: str = "") -> None:
    """Refuses what was made otherwise than it would be made now."""
    remedy = (
        f"Set this back, name another --out, or remove {folder or _folder_of(work)} to "
        "run it again."
    )
    if made.commands != work.record:
        new = [words for words in work.record if words not in made.commands]
        old = [words for words in made.commands if words not in work.record]
        raise InputError(
            f"{where} was {verb} by other commands: {_shown(old)} instead of "
            f"{_shown(new)}. {remedy}"
        )
    for command, words, before in zip(
        work.commands, work.record, made.inputs or (), strict=False
    ):
        differing = differences(before, inputs_of(command, work.study), command)
        if differing:
            more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
            raise InputError(
                f"{where} was {verb} with another configuration: "
                f"{'; '.join(differing[:3])}{more}, in '{shlex.join(words)}'. "
                f"{remedy}"
            )


def _shown(commands: Sequence[Sequence[str]]) -> str:
    if not commands:
        return "fewer"
    text = shlex.join(commands[0])
    return f"'{text}'"
