"""What a study runs and measures; light, so that gin and the lint read it quickly."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from specialize import checks
from specialize.errors import InputError, did_you_mean, of_field

# Placeholders of the commands that all arms of a seed share, and of those of a cell.
SHARED = ("study", "shared", "seed")
BUILT_IN = (*SHARED, "cell", "arm", "macros")
# Settings of an arm that are not placeholders.
COMMANDS, NEEDS = "commands", "needs"
RESULTS = "results.json"
# A folder and a lock are named after an arm; file systems take names of 255 bytes.
MOST_LETTERS = 200

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
            with of_field(name):
                _mapping(name, getattr(self, name))
        with of_field("grid"):
            self._check_grid()
        with of_field("cell"):
            _commands("cell", self.cell)
        with of_field("prepare"):
            self._check_stages()
        with of_field("seeds"):
            self._check_seeds()
        with of_field("arms"):
            arms = self.all_arms()
            if not arms:
                raise InputError("a study needs an arm: give it arms, or a grid.")
            for name, settings in arms.items():
                self._check_arm(name, settings)
        with of_field("measures"):
            self._check_measures()
        with of_field("reference"):
            if self.reference is not None:
                checks.one_of("reference", self.reference, arms)
        with of_field("front"):
            self._check_front()
        with of_field("claims"):
            self._check_claims()

    def all_arms(self) -> dict[str, dict[str, Any]]:
        """The arms with all their settings, those of the grid first."""
        found: dict[str, dict[str, Any]] = {}
        factors = [factor.items() for factor in self.grid.values()]
        for levels in itertools.product(*factors) if factors else ():
            merged = {**self.settings}
            for _, part in levels:
                merged |= part
            needs = [one for _, part in levels for one in part.get(NEEDS, ())]
            if needs:
                merged[NEEDS] = tuple(dict.fromkeys(needs))
            name = ".".join(level for level, _ in levels)
            if name in found:
                raise InputError(
                    f"two combinations of levels of the grid are called {name!r}. "
                    "Rename a level."
                )
            found[name] = merged
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

    def _check_grid(self) -> None:
        for factor, levels in self.grid.items():
            _named("factor of the grid", factor)
            _mapping(f"grid[{factor!r}]", levels)
            for level, settings in levels.items():
                _arm_named("level of the grid", level)
                _mapping(f"the settings of the level {level!r}", settings)
                self._check_needs(level, settings)

    def _check_stages(self) -> None:
        for stage, commands in self.prepare.items():
            _named("stage of prepare", stage)
            _commands(f"prepare[{stage!r}]", commands)
            _check_placeholders(f"prepare[{stage!r}]", commands, SHARED, self.settings)

    def _check_measures(self) -> None:
        if not self.measures:
            raise InputError("a study needs a measure, such as {'math': 'gsm8k:...'}.")
        for name in self.measures:
            _named("measure", name)
            self.place_of(name)

    def _check_front(self) -> None:
        if not isinstance(self.front, tuple | list) or len(self.front) not in (0, 2):
            raise InputError(f"front is {checks.shown(self.front)}, not two measures.")
        for name in self.front:
            checks.one_of("front", name, self.measures)

    def _check_claims(self) -> None:
        for claim, contrasts in self.claims.items():
            if not isinstance(claim, str) or not claim.strip():
                raise InputError(
                    f"the claim {checks.shown(claim)} has no text. Write it in words, "
                    "as {'Good is better.': {...}}."
                )
            _mapping(f"claims[{claim!r}]", contrasts)
            if not contrasts:
                raise InputError(f"the claim {claim!r} has no contrast.")
            for contrast, number in contrasts.items():
                self.terms(contrast)
                checks.real(f"the number of {contrast!r}", number)

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
        _arm_named("arm", name)
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
        self._check_needs(name, settings)
        macros = [v for k, v in settings.items() if _MACRO.fullmatch(k)]
        others = {k: v for k, v in settings.items() if not _MACRO.fullmatch(k)}
        for one in (COMMANDS, NEEDS):
            others.pop(one, None)
        _check_placeholders(f"the arm {name!r}", [*commands, macros], BUILT_IN, others)

    def _check_needs(self, name: str, settings: Mapping[str, Any]) -> None:
        needs = settings.get(NEEDS, ())
        if not isinstance(needs, tuple | list):
            raise InputError(f"{NEEDS} of {name!r} is {checks.shown(needs)}, a tuple?")
        for stage in needs:
            checks.one_of(f"{NEEDS} of {name!r}", stage, self.prepare)


def is_macro(name: str) -> bool:
    """Whether a setting is a gin macro."""
    return _MACRO.fullmatch(name) is not None


def _check_placeholders(
    where: str, value: Any, built_in: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """Raises an `InputError` if a text cannot be replaced until it has only words."""
    known = {*built_in, *(name for name in settings if not _MACRO.fullmatch(name))}
    checked: set[str] = set()

    def check(value: Any, inside: tuple[str, ...]) -> None:
        for text in texts_in(value):
            names = PLACEHOLDER.findall(text)
            if "macros" in names and "macros" in known:
                _check_macros_alone(where, text, in_words=not inside)
            for one in names:
                if one not in known:
                    raise InputError(
                        f"{where} uses {{{one}}}, which is not one of "
                        f"{', '.join(sorted(known))}.{did_you_mean(one, known)}"
                    )
                if one in inside:
                    circle = " -> ".join((*inside[inside.index(one) :], one))
                    raise InputError(
                        f"{where} uses {{{one}}}, which uses itself: {circle}. Write "
                        "one of these settings without the next."
                    )
                if one in settings and one not in checked:
                    check(settings[one], (*inside, one))
                    checked.add(one)

    check(value, ())


def _check_macros_alone(where: str, text: str, *, in_words: bool) -> None:
    """`{macros}` becomes several words, so it cannot be a part of one."""
    words = shlex.split(text) if in_words else [text]
    for word in words:
        if "{macros}" in word and word != "{macros}":
            raise InputError(
                f"{where} has {{macros}} inside {checks.shown(word)}. It becomes "
                "several words, so write it as a word of a command, or of a tuple."
            )


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


def _arm_named(kind: str, name: Any) -> None:
    """Names of folders, of which a combination of levels has several."""
    for part in name.split(".") if isinstance(name, str) else [name]:
        _named(kind, part)
    if len(name) > MOST_LETTERS:
        raise InputError(
            f"the {kind} {checks.shown(name)} has {len(name)} letters; names of "
            f"folders have at most {MOST_LETTERS} here. Shorten it."
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
    for one in value:
        try:
            shlex.split(one)
        except ValueError as error:
            raise InputError(
                f"{name} has {checks.shown(one)}, which is no line of words "
                f"({error}). Close the quotation marks, or escape them."
            ) from error
