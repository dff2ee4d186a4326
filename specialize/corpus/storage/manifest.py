"""The manifest of a corpus folder: `corpus.json`."""

import dataclasses
import os
import pathlib
from typing import Annotated, Any

import msgspec

from specialize import outputs, typed_json, versions
from specialize.corpus.choices import RECORD_FORMATS, TEXT
from specialize.corpus.records import ORIGINS, Fingerprint
from specialize.corpus.storage.funnel import Funnel
from specialize.errors import InputError
from specialize.typed_json import Count, Object


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Lengths in student tokens over the records of a format, EOS included.

    Attributes:
        mean: arithmetic mean.
        median: half of the records are at most this long.
        p99: 99 % of the records are at most this long.
        max: the longest.
    """

    mean: Annotated[float, msgspec.Meta(ge=0, le=2**63)]
    median: Count
    p99: Count
    max: Count


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

    records: Count
    inputs: Lengths
    targets: Lengths
    origins: dict[str, Count]
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
        format: one of `RECORD_FORMATS`.
        records: number of records in it.
        bytes: its size.
        sha256: digest of its bytes.
    """

    file: str
    format: str
    records: Count
    bytes: Count
    sha256: str

    def __post_init__(self) -> None:
        if pathlib.PurePath(self.file).name != self.file or "\0" in self.file:
            raise InputError(
                f"the shard {self.file!r} is not a file of the corpus's own folder"
            )


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A corpus folder's description.

    Attributes:
        fingerprint: settings that must agree before the corpus may be used.
        formats: summaries of the formats that occur, in the order of `RECORD_FORMATS`.
        shards: the files, by format and number.
        funnel: the funnel, as `Funnel.to_json` returns it.
        card: origin of the data, as `cards.Card.to_json` returns it.
    """

    fingerprint: Fingerprint
    formats: dict[str, FormatSummary]
    shards: tuple[Shard, ...]
    funnel: dict[str, Any]
    card: dict[str, Any]

    @property
    def judged(self) -> bool:
        """Whether its answers were judged, which those to mere prompts are not."""
        return {*self.formats} != {TEXT}

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
        folder = pathlib.Path(folder)
        outputs.recover(folder)
        path = folder / versions.CORPUS.file
        remedy = "Rebuild the corpus."
        name = "Name the folder that 'specialize corpus build --out' wrote."
        try:
            data = typed_json.read_bytes(path, remedy=name)
        except InputError as error:
            raise InputError(f"{folder} is not a corpus: {error}") from error
        version = typed_json.decode(data, _Version, path, remedy=remedy).version
        versions.CORPUS.check(version, path)
        value = typed_json.decode(data, _Stored, path, remedy=remedy)
        Funnel.from_json(value.funnel, path)
        return cls(
            Fingerprint.from_json(value.fingerprint, str(path)),
            {n: part for n, part in value.formats.items() if n in RECORD_FORMATS},
            value.shards,
            value.funnel,
            value.card,
        )


@dataclasses.dataclass(frozen=True)
class _Version:
    version: Any = None


@dataclasses.dataclass(frozen=True)
class _Stored:
    fingerprint: Object
    formats: dict[str, FormatSummary]
    shards: tuple[Shard, ...]
    funnel: Object
    card: Object
