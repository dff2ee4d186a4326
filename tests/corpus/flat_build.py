"""Builds a corpus from flat options, which tests write more quickly than specs."""

import dataclasses

from specialize.corpus.building import pipeline
from specialize.corpus.spec import (
    AcceptanceSpec,
    AlignmentSpec,
    FolderSpec,
    RecordsSpec,
    Sources,
)

SPECS = (Sources, AlignmentSpec, FolderSpec, AcceptanceSpec, RecordsSpec)


def build(problems, vocabulary, path, **options):
    """`pipeline.build`, each option given to the specification that has the field."""
    options |= {"problems": problems, "vocabulary": vocabulary, "path": path}
    specs = []
    for spec in SPECS:
        names = {field.name for field in dataclasses.fields(spec)} & options.keys()
        specs.append(spec(**{name: options.pop(name) for name in names}))
    sources, alignment, folder, acceptance, records = specs
    return pipeline.build(
        sources,
        alignment,
        folder,
        acceptance=acceptance,
        records=records,
        **options,
    )
