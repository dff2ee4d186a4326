"""The cells of a study: their numbers, folders and commands."""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from specialize import paths
from specialize.errors import InputError
from specialize.evaluation.study import spec
from specialize.evaluation.study.spec import StudySpec

DONE = "done.json"
# The name of a study's folder in the record of what was run.
_ANYWHERE = "{study}"


@dataclasses.dataclass(frozen=True)
class Work:
    """Commands that are run once, in this order.

    Attributes:
        name: What is made.
        key: A name that no other work of the study has.
        marker: The file that says that it is made, and by which commands.
        commands: The words of each command, after `specialize`.
        record: The same for any folder of the study, for the marker.
        study: The folder of the study.
        stages: Stage -> what has to be made before it, once per seed.
    """

    name: str
    key: str
    marker: str
    commands: tuple[tuple[str, ...], ...]
    record: list[list[str]]
    study: str
    stages: Mapping[str, "Work"] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Cell:
    """An arm with a seed.

    Attributes:
        number: Its number in the study, from 0: all arms of the first seed come first.
        arm: Name of the arm.
        seed: The seed.
        folder: The folder of the cell.
        work: What it runs.
    """

    number: int
    arm: str
    seed: int
    folder: str
    work: Work

    def __str__(self) -> str:
        return f"cell {self.number} ({self.work.name})"


def cells_of(study: StudySpec, out: str | os.PathLike[str]) -> list[Cell]:
    """The cells of a study.

    Args:
        study: The study.
        out: Its folder, local or in a bucket.
    """
    found: list[Cell] = []
    arms = study.all_arms()
    for seed in study.seeds:
        for arm, settings in arms.items():
            folder = paths.joined(out, f"cells/{arm}/seed-{seed}")
            needs = settings.get(spec.NEEDS, tuple(study.prepare))
            stages = {
                stage: _work(study, out, seed, study.settings, stage=stage)
                for stage in study.prepare
                if stage in needs
            }
            work = _work(study, out, seed, settings, arm=arm)
            work = dataclasses.replace(work, stages=stages)
            found.append(Cell(len(found), arm, seed, folder, work))
    return found


def _work(
    study: StudySpec,
    out: str | os.PathLike[str],
    seed: int,
    settings: Mapping[str, Any],
    *,
    arm: str = "",
    stage: str = "",
) -> Work:
    """The commands of an arm, or of a stage that the arms of a seed share."""

    def commands(root: str) -> list[list[str]]:
        shared = paths.joined(root, f"shared/seed-{seed}")
        values: dict[str, Any] = {"study": root, "shared": shared, "seed": seed}
        if arm:
            values["cell"] = paths.joined(root, f"cells/{arm}/seed-{seed}")
            values["arm"] = arm
        lines = settings.get(spec.COMMANDS, study.cell) if arm else study.prepare[stage]
        return [list(_words(line, settings, values)) for line in lines]

    name = f"{arm or stage}, seed {seed}"
    key = f"{'cell' if arm else 'stage'}.{arm or stage}.seed-{seed}"
    if arm:
        marker = paths.joined(out, f"cells/{arm}/seed-{seed}/{DONE}")
    else:
        marker = paths.joined(out, f"shared/seed-{seed}/{stage}.{DONE}")
    made = commands(os.fspath(out))
    return Work(
        name, key, marker, tuple(map(tuple, made)), commands(_ANYWHERE), os.fspath(out)
    )


def _words(
    line: str, settings: Mapping[str, Any], values: Mapping[str, Any]
) -> Iterator[str]:
    """The words of a command with their placeholders replaced."""
    try:
        written = shlex.split(line)
    except ValueError as error:
        raise InputError(f"the command {line!r} cannot be split: {error}.") from error
    yield from _expanded(written, settings, values)


def _expanded(
    written: Sequence[Any], settings: Mapping[str, Any], values: Mapping[str, Any]
) -> Iterator[str]:
    """Words with their placeholders replaced; one that is a tuple is its words."""
    for word in written:
        whole = spec.PLACEHOLDER.fullmatch(str(word))
        name = whole[1] if whole else ""
        several = settings.get(name)
        if word == "{macros}":
            for macro, value in settings.items():
                if spec.is_macro(macro):
                    given = _replaced(value, settings, values)
                    yield f"--gin.{macro}={given!r}"
        elif isinstance(several, tuple | list):
            inside = {k: v for k, v in settings.items() if k != name}
            yield from _expanded(several, inside, values)
        else:
            yield str(_replaced(word, settings, values))


def _replaced(
    value: Any, settings: Mapping[str, Any], values: Mapping[str, Any]
) -> Any:
    """A value with the placeholders in its texts replaced."""

    def text(name: str) -> str:
        if name in values:
            return str(values[name])
        if name not in settings:
            return f"{{{name}}}"  # within the setting of that name
        inside = {k: v for k, v in settings.items() if k != name}
        return str(_replaced(settings[name], inside, values))

    if isinstance(value, str):
        return spec.PLACEHOLDER.sub(lambda found: text(found[1]), value)
    if isinstance(value, Mapping):
        return {
            _replaced(k, settings, values): _replaced(v, settings, values)
            for k, v in value.items()
        }
    if isinstance(value, tuple | list):
        return type(value)(_replaced(one, settings, values) for one in value)
    return value
