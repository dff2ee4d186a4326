"""Paths: local, or in a bucket (`gs://`, `s3://`).

This is the only package that opens, lists, copies and removes objects. Inputs are read
through `local`, which copies them once per machine; outputs are written through
`specialize.outputs`.
"""

from specialize.paths.cache import (
    MARKER,
    WRITING,
    copies,
    exists,
    folder,
    local,
    locked,
    matches,
    refuse_clash,
)
from specialize.paths.urls import (
    SCHEMES,
    checked,
    checked_for_checkpoints,
    in_bucket,
    joined,
    name_of,
    parent_of,
    read_from_bucket,
    scheme_of,
    shown,
)

__all__ = [
    "MARKER",
    "SCHEMES",
    "WRITING",
    "checked",
    "checked_for_checkpoints",
    "copies",
    "exists",
    "folder",
    "in_bucket",
    "joined",
    "local",
    "locked",
    "matches",
    "name_of",
    "parent_of",
    "read_from_bucket",
    "refuse_clash",
    "scheme_of",
    "shown",
]
