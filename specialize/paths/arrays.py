"""Checkpoints in buckets: what Orbax and TensorStore have to be told.

Orbax 0.12 writes arrays to `gs://` through TensorStore and finishes a step with an
object, `commit_success.txt`, because stores have no rename. It refuses `s3://`, which
TensorStore has a driver for. `teach_orbax` makes it treat both alike.
"""

import functools
import os
import re
from typing import Any

from specialize import paths
from specialize.paths import store

# The object that finishes a step, as Orbax names it.
COMMIT = "commit_success.txt"


def kvstore(url: str) -> dict[str, Any] | None:
    """TensorStore's key-value store of a folder in a bucket; None for another path."""
    found = re.fullmatch(r"(gs|s3)://([^/]+)/?(.*)", url)
    if found is None:
        return None
    scheme, bucket, path = found.groups()
    path = path.rstrip("/") + "/" if path else ""
    if scheme == "gs":
        return {"driver": "gcs", "bucket": bucket, "path": path}
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": path}
    # TensorStore reads neither variable itself.
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    if endpoint := next(filter(None, map(os.environ.get, variables)), None):
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        # Without it, TensorStore reports every other source that it does not find.
        spec["aws_credentials"] = {"type": "environment"}
    return spec


def teach_orbax(url: str | os.PathLike[str]) -> None:
    """Makes Orbax treat `s3://` as it treats `gs://`, and use the same clients as we.

    It changes five functions of Orbax in this process. All of them do what they did
    for local paths. A bucket's name is divided as `kvstore` does it: Orbax reads a URL
    as a browser does, to which "#" and "?" end the name of a folder.

    Args:
        url: What Orbax is going to read or write.

    Raises:
        InputError: The library of its store is not installed.
    """
    store.filesystem(url)
    _teach_orbax()


@functools.cache
def _teach_orbax() -> None:
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    google_only = gcs_utils.get_kvstore_for_gcs
    normalized = tensorstore_utils._normalize_path

    def kvstore_of(path: str) -> dict[str, Any]:
        if not path.startswith("s3://"):
            return google_only(path)
        return {**(kvstore(path) or {}), "path": path.split("/", 3)[3]}

    def divided(path: Any, add_trailing_slash: bool = True) -> tuple[str, str]:
        bucket, _, name = str(path).partition("://")[2].partition("/")
        more = add_trailing_slash and not name.endswith("/")
        return bucket, f"{name}/" if more else name

    gcs_utils.is_gcs_path = lambda path: paths.in_bucket(path.as_posix())
    gcs_utils.parse_gcs_path = divided
    gcs_utils.get_kvstore_for_gcs = kvstore_of
    tensorstore_utils._use_gcs_driver = paths.in_bucket
    tensorstore_utils._normalize_path = lambda path: re.sub(
        r"^s3:/+", "s3://", normalized(path)
    )
