"""Uploads with a precondition: of several processes that replace an object, one wins.

The libraries' own uploads of files can create an object, but not replace one that is
still what it was. Large files go in parts, and the object changes with the last one.
"""

import importlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from specialize.paths import failures, store
from specialize.paths.urls import Path, checked, scheme_of

# Bytes of a part; S3 allows 10,000 parts, and Google multiples of 256 KiB.
PART = 64 << 20
_NONE = {"gs": {"ifGenerationMatch": "0"}, "s3": {"IfNoneMatch": "*"}}


def replace(url: Path, file: pathlib.Path, version: str | None) -> str:
    """Uploads a file if the object is still the one of a version.

    Args:
        url: The object.
        file: What to upload.
        version: Of the object that it replaces; None: there must be none.

    Returns:
        The version of the new object.

    Raises:
        TakenError: Another process has written or removed the object.
        InputError: The store does not answer, or refuses.
    """
    url, fs = checked(url), store.filesystem(url)

    def call() -> str:
        try:
            put = _put_google if scheme_of(url) == "gs" else _put_s3
            return put(fs, url, file, version)
        except OSError as error:
            if not (failures.is_taken(error) or isinstance(error, FileNotFoundError)):
                raise
            # After a cut connection, the object may be ours.
            if (ours := _version_of_same(fs, url, file)) is None:
                raise store.TakenError(f"{url} was replaced.") from error
            return ours

    return store.repeated(url, "written", call)


def _put_s3(fs: Any, url: str, file: pathlib.Path, version: str | None) -> str:
    condition = _NONE["s3"] if version is None else {"IfMatch": f'"{version}"'}
    bucket, key, _ = fs.split_path(url)
    place = {"Bucket": bucket, "Key": key}
    if file.stat().st_size <= PART:
        made = fs.call_s3("put_object", **place, Body=file.read_bytes(), **condition)
        return made["ETag"].strip('"')
    begun = place | {
        "UploadId": fs.call_s3("create_multipart_upload", **place)["UploadId"]
    }
    try:
        parts = [
            {
                "PartNumber": n,
                "ETag": fs.call_s3("upload_part", **begun, PartNumber=n, Body=part)[
                    "ETag"
                ],
            }
            for n, part in enumerate(_parts(file), 1)
        ]
        made = fs.call_s3(
            "complete_multipart_upload",
            **begun,
            MultipartUpload={"Parts": parts},
            **condition,
        )
    except BaseException:
        # Parts that are never completed are paid for.
        fs.call_s3("abort_multipart_upload", **begun)
        raise
    return made["ETag"].strip('"')


def _put_google(fs: Any, url: str, file: pathlib.Path, version: str | None) -> str:
    from fsspec.asyn import sync

    core = importlib.import_module("gcsfs.core")
    condition = _NONE["gs"] if version is None else {"ifGenerationMatch": version}
    bucket, _, name = url.partition("://")[2].partition("/")
    words = ("POST", f"{fs._location}/upload/storage/v1/b/{quote(bucket)}/o")
    size = file.stat().st_size
    if size <= PART:
        made = fs.call(
            *words,
            uploadType="media",
            name=name,
            data=file.read_bytes(),
            json_out=True,
            **condition,
        )
        return made["generation"]
    begun, _ = fs.call(*words, uploadType="resumable", name=name, **condition)
    made, offset = dict[str, Any](), 0
    kind = "application/octet-stream"
    for part in _parts(file):
        one = sync(
            fs.loop, core.upload_chunk, fs, begun["Location"], part, offset, size, kind
        )
        made, offset = one or {}, offset + len(part)
    return made["generation"]


def _parts(file: pathlib.Path) -> Iterator[bytes]:
    with open(file, "rb") as opened:
        while part := opened.read(PART):
            yield part


def _version_of_same(fs: Any, url: str, file: pathlib.Path) -> str | None:
    """The version of an object if it has the content of a file."""
    found = store.stat(url)
    if found is None or found.size != os.path.getsize(file):
        return None
    start = 0
    for part in _parts(file):
        if fs.cat_file(url, start=start, end=start + len(part)) != part:
            return None
        start += len(part)
    return found.version if store.stat(url) == found else None
