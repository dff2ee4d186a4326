"""The manifest of a corpus folder: `corpus.json`."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, cast

from specialize import versions
from specialize.corpus.choices import FORMATS
from specialize.corpus.records import ORIGINS, Fingerprint
from specialize.errors import InputError


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths in student tokens over the records of a format, EOS included.

    Attributes:
        mean: arithmetic mean.
        median: half of the records are at most this long.
        p99: 99 % of the records are at most this long.
        max: the longest.
    """

    mean: float
    median: int
    p99: int
    max: int


@dataclasses.dataclass(frozen=True)
class FormatSummary:
    """One format of a corpus.

    Attributes:
        records: number of records.
        inputs: lengths of encoder texts.
        targets: lengths of decoder texts.
        origins: number of target positions by origin, one of `ORIGINS`.
        kept_mass: mean probability on the K ids over soft positions; 1 if there are
            none.
        sampled_mass: mean probability of the target piece over soft positions.
    """

    records: int
    inputs: Lengths
    targets: Lengths
    origins: dict[str, int]
    kept_mass: float
    sampled_mass: float

    @property
    def soft_share(self) -> float:
        """Share of soft positions among all target positions but EOS."""
        total = sum(self.origins.values()) - self.origins.get("eos", 0)
        return self.origins.get(ORIGINS[0], 0) / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a corpus.

    Attributes:
        file: name within the folder.
        format: one of `FORMATS`.
        records: number of records in it.
        bytes: its size.
        sha256: digest of its bytes.
    """

    file: str
    format: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A corpus folder's description.

    Attributes:
        fingerprint: settings that must agree before the corpus may be used.
        formats: summaries by format, in the order of `FORMATS`, without empty formats.
        shards: the files, by format and number.
        funnel: the funnel, as `Funnel.to_json` returns it.
        card: origin of the data, as `cards.Card.to_json` returns it.
    """

    fingerprint: Fingerprint
    formats: dict[str, FormatSummary]
    shards: tuple[Shard, ...]
    funnel: dict[str, Any]
    card: dict[str, Any]

    def counts(self) -> dict[str, int]:
        """Records by format."""
        return {name: summary.records for name, summary in self.formats.items()}

    def shards_of(self, format: str) -> list[Shard]:
        """The files of one format, in order.

        Raises:
            InputError: the corpus has no records of it.
        """
        found = [shard for shard in self.shards if shard.format == format]
        if not found:
            raise InputError(
                f"this corpus has no {format!r} records, only {list(self.formats)}. "
                "Build it with that format, or choose another task."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, in a fixed order."""
        return {
            "version": versions.CORPUS.writes,
            "fingerprint": self.fingerprint.to_json(),
            "digest": self.fingerprint.digest(),
            "formats": {
                name: dataclasses.asdict(summary)
                for name, summary in self.formats.items()
            },
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
            "funnel": self.funnel,
            "card": self.card,
        }

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Manifest":
        """Reads the manifest of a corpus folder.

        Raises:
            InputError: the folder is missing or not a corpus, or the manifest is
                damaged or of another version.
        """
        path = pathlib.Path(folder) / versions.CORPUS.file
        try:
            parsed: object = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{folder} is not a corpus: cannot read {path} ({error.strerror}). "
                "Name the folder that 'specialize corpus build --out' wrote."
            ) from error
        except ValueError as error:
            raise InputError(
                f"{path} is damaged ({error}). Rebuild the corpus."
            ) from error
        value = cast(dict[str, Any], parsed if isinstance(parsed, dict) else {})
        versions.CORPUS.check(value.get("version"), path)
        try:
            fingerprint = Fingerprint.from_json(value["fingerprint"], str(path))
            formats = {
                name: _summary(summary)
                for name, summary in value["formats"].items()
                if name in FORMATS
            }
            shards = tuple(Shard(**shard) for shard in value["shards"])
            return cls(fingerprint, formats, shards, value["funnel"], value["card"])
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is damaged ({type(error).__name__}: {error}). Rebuild the "
                "corpus."
            ) from error


def _summary(value: Mapping[str, Any]) -> FormatSummary:
    fields = dict(value)
    fields["inputs"] = Lengths(**fields["inputs"])
    fields["targets"] = Lengths(**fields["targets"])
    return FormatSummary(**fields)
