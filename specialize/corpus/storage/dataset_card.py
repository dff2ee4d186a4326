"""The README.md of a corpus folder: its records, origin and licences."""

from collections.abc import Mapping, Sequence
from typing import Any

from specialize.corpus.storage.manifest import Manifest

# What version 0.1 did, and an empty field says.
_KEPT = {"unwritable": "keep"}

_LAYOUT = """\
## Layout

Gzipped TFRecords of `tf.train.Example`; arrays are little-endian bytes.

| feature | holds |
|---|---|
| `id`, `inputs`, `targets` | UTF-8 text |
| `input_ids` | {ids} [S], without EOS |
| `target_ids` | {ids} [L], EOS last |
| `teacher_ids` | {ids} [L, {k}], most probable first; unused slots 0 |
| `teacher_logprobs` | float16 [L, {k}], nats; unused slots -inf |
| `teacher_tail` | float16 [L], probability on no listed id |
| `origin` | uint8 [L], why a position is as it is: {origins} |
| `format` | int64: {formats} |

`specialize.corpus.storage.shards.parse_example` reads them in tf.data,
`specialize.corpus.storage.shards.read_shards` without tensorflow.
"""


def dataset_card(manifest: Manifest) -> str:
    """The card as Markdown, made from the manifest alone."""
    from specialize.corpus.records import FORMAT_IDS, ORIGINS
    from specialize.corpus.storage.stored_record import NARROW_ROWS

    card, fingerprint = manifest.card, manifest.fingerprint
    total = sum(manifest.counts().values())
    parts = [
        "# Distillation corpus",
        f"{total:,} records for a T5 student, written by `specialize corpus`. "
        f"Fingerprint `{fingerprint.digest()}`.",
        "## Origin",
        _table(
            ("what", "value"),
            [
                ("teacher", fingerprint.teacher),
                ("prompt (sha256)", fingerprint.prompt_sha256 or "none or unknown"),
                ("sampling", _pairs(fingerprint.sampling)),
                ("alignment", fingerprint.alignment),
                ("unwritable text", _pairs(fingerprint.spelling or _KEPT)),
                ("entries of a teacher row", str(fingerprint.k)),
                ("demonstrations", _pairs(fingerprint.demonstrations)),
                ("student vocabulary (sha256)", fingerprint.vocabulary_sha256),
                ("student embedding rows", f"{fingerprint.vocabulary_rows:,}"),
            ],
        ),
    ]
    licences: Mapping[str, Any] = card.get("licences") or {}
    if licences:
        rows = [(name, str(licence)) for name, licence in licences.items()]
        parts += ["## Licences", _table(("data", "licence"), rows)]
    sources: Sequence[Mapping[str, Any]] = card.get("sources") or []
    if sources:
        rows = [
            (str(s.get("file", "")), f"{s.get('bytes', 0):,}", str(s.get("sha256", "")))
            for s in sources
        ]
        parts += ["## Sources", _table(("file", "bytes", "sha256"), rows)]
    if manifest.funnel:
        parts += ["## Funnel", _table(("samples", "count"), _flat(manifest.funnel))]
    rows = [
        (
            name,
            f"{summary.records:,}",
            f"{summary.inputs.median} / {summary.inputs.max}",
            f"{summary.targets.median} / {summary.targets.max}",
            f"{100 * summary.soft_share:.1f} %",
            f"{summary.kept_mass:.4f}",
        )
        for name, summary in manifest.formats.items()
    ]
    heads = ("format", "records", "input tokens, median / max")
    heads += ("target tokens, median / max", "soft positions", "kept mass on them")
    parts += ["## Records", _table(heads, rows)]
    parts.append(
        _LAYOUT.format(
            k=fingerprint.k,
            ids="uint16" if fingerprint.vocabulary_rows <= NARROW_ROWS else "int32",
            origins=", ".join(f"{i} {name}" for i, name in enumerate(ORIGINS)),
            formats=", ".join(f"{i} {name}" for name, i in FORMAT_IDS.items()),
        )
    )
    return "\n\n".join(parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items()) or "none"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}: ")  # pyright: ignore[reportUnknownArgumentType]
        else:
            shown = f"{value:,}" if isinstance(value, int) else str(value)
            rows.append((prefix + name.replace("_", " "), shown))
    return rows
