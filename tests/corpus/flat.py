"""Specifications from flat options, which tests write more quickly."""

import dataclasses

from specialize.corpus.building import pipeline
from specialize.corpus.sampling import spec as sampling
from specialize.corpus.spec import (
    AcceptanceSpec,
    AlignmentSpec,
    FolderSpec,
    RecordsSpec,
    Sources,
)


def fill(spec, options, **more):
    """Makes a specification of those options that are its fields, and removes them."""
    names = {field.name for field in dataclasses.fields(spec)} & options.keys()
    return spec(**{name: options.pop(name) for name in names}, **more)


def build(problems, vocabulary, path, **options):
    """`pipeline.build`, each option given to the specification that has the field."""
    options |= {"problems": problems, "vocabulary": vocabulary, "path": path}
    return pipeline.build(
        fill(Sources, options),
        fill(AlignmentSpec, options),
        fill(FolderSpec, options),
        acceptance=fill(AcceptanceSpec, options),
        records=fill(RecordsSpec, options),
        **options,
    )


def endpoint(**options):
    """An `Endpoint`."""
    request = fill(sampling.RequestSpec, options)
    return sampling.Endpoint(**options, request=request)


def asking(**options):
    """A `SamplingSpec`."""
    pace = fill(sampling.PaceSpec, options)
    price = fill(sampling.PriceSpec, options)
    return sampling.SamplingSpec(**options, pace=pace, price=price)
