"""What a study runs and measures; light, so that gin and the lint read it quickly."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from specialize import checks
from specialize.errors import InputError, did_you_mean

# Placeholders of the commands that all arms of a seed share, and of those of a cell.
SHARED = ("study", "shared", "seed")
BUILT_IN = (*SHARED, "cell", "arm", "macros")
# Settings of an arm that are not placeholders.
COMMANDS, NEEDS = "commands", "needs"
RESULTS = "results.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_MACRO = re.compile(r"[A-Z][A-Z0-9_]*")
PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_TERM = re.compile(
    r"\s*(?P<sign>[+-]?)\s*(?:(?P<factor>\d+(?:\.\d+)?)\s*\*\s*)?"
    r"(?P<arm>\w+(?:\.\w+)*)\.(?P<measure>\w+)\s*"
)


@dataclasses.dataclass(frozen=True)
class StudySpec:
    """Arms, the commands of a cell, measures and claims.

    A command is a line such as "train --gin_file R --gin.MODEL_DIR={cell}/run
    {macros}". The placeholders in braces are `{study}`, the folder of the study;
    `{shared}`, the folder that the arms of one seed share; `{cell}`, the folder of the
    cell; `{seed}`; `{arm}`; `{macros}`, the macros of the arm as `--gin.NAME=VALUE`;
    and every other setting of the arm, or of `settings`, by its name. A setting that is
    a tuple is several words.

    Attributes:
        arms: Name -> settings of the arm. Names in capital letters are gin macros;
            "commands" replaces `cell`, "needs" names the stages of `prepare` that the
            arm needs (default: all); others are placeholders.
        cell: The commands of a cell.
        measures: Name -> "suite:prompt" in `{cell}/results.json`, or (file in the
            cell, "suite:prompt"); the file is of `evaluate` or `select --json`.
        seeds: A cell is made for each of them.
        prepare: Stage -> commands that are run once per seed before the cells that
            need it, in this order.
        grid: Factor -> level -> settings. Every combination of levels is an arm, named
            "level.level"; its settings are those of its levels, the last first.
        settings: Settings of every arm that has no other value for them.
        reference: The arm with which the others are compared.
        claims: Claim -> contrast -> the number that it must surpass. A contrast is a
            sum such as "base.generic - none.generic", of measures of arms, perhaps
            with factors.
        front: Two measures that the report draws against each other, or ().

    Raises:
        InputError: A field has another type, or names what is not there.
    """

    arms: Mapping[str, Mapping[str, Any]]
    cell: Sequence[str]
    measures: Mapping[str, str | tuple[str, str]]
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    prepare: Mapping[str, Sequence[str]] = dataclasses.field(
        default_factory=dict[str, Sequence[str]]
    )
    grid: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict[str, Mapping[str, Mapping[str, Any]]]
    )
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    reference: str | None = None
    claims: Mapping[str, Mapping[str, float]] = dataclasses.field(
        default_factory=dict[str, Mapping[str, float]]
    )
    front: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("arms", "measures", "prepare", "grid", "settings", "claims"):
            _mapping(name, getattr(self, name))
        for name, levels in self.grid.items():
            _mapping(f"grid[{name!r}]", levels)
        _commands("cell", self.cell)
        for stage, commands in self.prepare.items():
            _named("stage of prepare", stage)
            _commands(f"prepare[{stage!r}]", commands)
            _check_placeholders(f"prepare[{stage!r}]", commands, SHARED, self.settings)
        self._check_seeds()
        arms = self.all_arms()
        if not arms:
            raise InputError("a study needs an arm: give it arms, or a grid.")
        for name, settings in arms.items():
            self._check_arm(name, settings)
        if not self.measures:
            raise InputError("a study needs a measure, such as {'math': 'gsm8k:...'}.")
        for name in self.measures:
            _named("measure", name)
            self.place_of(name)
        if self.reference is not None:
            checks.one_of("reference", self.reference, arms)
        if not isinstance(self.front, tuple | list) or len(self.front) not in (0, 2):
            raise InputError(f"front is {checks.shown(self.front)}, not two measures.")
        for name in self.front:
            checks.one_of("front", name, self.measures)
        for claim, contrasts in self.claims.items():
            _mapping(f"claims[{claim!r}]", contrasts)
            if not contrasts:
                raise InputError(f"the claim {claim!r} has no contrast.")
            for contrast, number in contrasts.items():
                self.terms(contrast)
                checks.real(f"the number of {contrast!r}", number)

    def all_arms(self) -> dict[str, dict[str, Any]]:
        """The arms with all their settings, those of the grid first."""
        found: dict[str, dict[str, Any]] = {}
        if self.grid:
            for levels in itertools.product(*self.grid.values()):
                each = zip(self.grid.values(), levels, strict=True)
                parts = [factor[level] for factor, level in each]
                for part in parts:
                    _mapping("the settings of a level", part)
                merged = {**self.settings}
                for part in parts:
                    merged |= part
                needs = [one for part in parts for one in part.get(NEEDS, ())]
                if needs:
                    merged[NEEDS] = tuple(dict.fromkeys(needs))
                found[".".join(levels)] = merged
        for name, settings in self.arms.items():
            _mapping(f"arms[{name!r}]", settings)
            if name in found:
                raise InputError(
                    f"the arm {name!r} is in arms and in the grid, of which it is a "
                    "combination of levels. Rename the arm or a level."
                )
            found[name] = {**self.settings, **settings}
        return found

    def place_of(self, measure: str) -> tuple[str, str]:
        """The file in a cell, and the key of the score in it, of a measure.

        Raises:
            InputError: It is written in another way.
        """
        where = self.measures[measure]
        if isinstance(where, str) and where:
            return RESULTS, where
        if (
            isinstance(where, tuple | list)
            and len(where) == 2
            and all(isinstance(one, str) and one for one in where)
        ):
            return where[0], where[1]
        raise InputError(
            f"the measure {measure!r} is {checks.shown(where)}, expected "
            "'suite:prompt' or ('file', 'suite:prompt')."
        )

    def terms(self, contrast: str) -> dict[tuple[str, str], float]:
        """A contrast as (arm, measure) -> factor.

        Raises:
            InputError: It is malformed, or names an unknown arm or measure.
        """
        terms: dict[tuple[str, str], float] = {}
        place, arms = 0, self.all_arms()
        while isinstance(contrast, str) and place < len(contrast):
            found = _TERM.match(contrast, place)
            if found is None or (place > 0 and not found["sign"]):
                place = 0
                break
            for kind, name, known in (
                ("arm", found["arm"], [*arms]),
                ("measure", found["measure"], [*self.measures]),
            ):
                if name not in known:
                    raise InputError(
                        f"the contrast {contrast!r} names the {kind} {name!r}, which "
                        f"is not one of {', '.join(known)}.{did_you_mean(name, known)}"
                    )
            factor = float(found["factor"] or 1) * (-1 if found["sign"] == "-" else 1)
            key = (found["arm"], found["measure"])
            terms[key] = terms.get(key, 0.0) + factor
            place = found.end()
        if place == 0:
            raise InputError(
                f"the contrast {checks.shown(contrast)} is not a sum of measures of "
                "arms, such as 'base.generic - none.generic'."
            )
        return terms

    def _check_seeds(self) -> None:
        if not isinstance(self.seeds, tuple | list) or not self.seeds:
            raise InputError(
                f"seeds is {checks.shown(self.seeds)}, expected a tuple of whole "
                "numbers, such as (0, 1)."
            )
        for one in self.seeds:
            checks.whole("a seed", one, 0, most=2**32 - 1)
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds is {checks.shown(self.seeds)}: each may be once.")

    def _check_arm(self, name: str, settings: Mapping[str, Any]) -> None:
        for part in name.split("."):
            _named("arm", part)
        for key in settings:
            if not isinstance(key, str) or not (
                _MACRO.fullmatch(key) or PLACEHOLDER.fullmatch(f"{{{key}}}")
            ):
                raise InputError(
                    f"the arm {name!r} has the setting {checks.shown(key)}; settings "
                    "are gin macros in capital letters, or names in small ones."
                )
            if key in BUILT_IN:
                raise InputError(
                    f"the arm {name!r} sets {key!r}, which every study has. Choose "
                    f"another name than {', '.join(BUILT_IN)}."
                )
        commands = settings.get(COMMANDS, self.cell)
        _commands(f"the commands of {name!r}", commands)
        needs = settings.get(NEEDS, tuple(self.prepare))
        if not isinstance(needs, tuple | list):
            raise InputError(f"{NEEDS} of {name!r} is {checks.shown(needs)}, a tuple?")
        for stage in needs:
            checks.one_of(f"{NEEDS} of {name!r}", stage, self.prepare)
        macros = [v for k, v in settings.items() if _MACRO.fullmatch(k)]
        others = {k: v for k, v in settings.items() if not _MACRO.fullmatch(k)}
        for one in (COMMANDS, NEEDS):
            others.pop(one, None)
        _check_placeholders(f"the arm {name!r}", [*commands, macros], BUILT_IN, others)


def is_macro(name: str) -> bool:
    """Whether a setting is a gin macro."""
    return _MACRO.fullmatch(name) is not None


def _check_placeholders(
    where: str, value: Any, built_in: Sequence[str], settings: Mapping[str, Any]
) -> None:
    known = {*built_in, *(name for name in settings if not _MACRO.fullmatch(name))}
    texts, seen = [*texts_in(value)], set[str]()
    while texts:
        for one in PLACEHOLDER.findall(texts.pop()):
            if one not in known:
                raise InputError(
                    f"{where} uses {{{one}}}, which is not one of "
                    f"{', '.join(sorted(known))}.{did_you_mean(one, known)}"
                )
            if one in settings and one not in seen:
                seen.add(one)
                texts += texts_in(settings[one])


def texts_in(value: Any) -> Iterator[str]:
    """The texts in a value of gin."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from texts_in(key)
            yield from texts_in(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from texts_in(one)


def _mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {checks.shown(value)}, expected {{name: ...}}.")


def _named(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"the {kind} is named {checks.shown(name)}; names have letters, digits and "
            "'_' only."
        )


def _commands(name: str, value: Any) -> None:
    if (
        not isinstance(value, tuple | list)
        or not value
        or not all(isinstance(one, str) and one.strip() for one in value)
    ):
        raise InputError(
            f"{name} is {checks.shown(value)}, expected a tuple of commands of "
            "specialize, such as ('train ...', 'evaluate ...')."
        )
