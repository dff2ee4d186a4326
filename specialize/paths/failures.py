"""Why a call of a store has failed, in words without anything that may be secret."""

import errno
import re

_PASSING_ERRNO = (
    errno.EBUSY,
    errno.EREMOTEIO,
    errno.EIO,
    errno.ECONNRESET,
    errno.EPIPE,
)
# 409: S3 has another conditional write of the same object at this moment.
_PASSING_STATUS = (408, 409, 429, 500, 502, 503, 504)
# What TensorStore says of it.
_UNKNOWN_CALLER = re.compile("UNAUTHENTICATED|http_response_code='401'")
_NO_ANSWER = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED")


def of_store(error: BaseException | None) -> BaseException | None:
    """The failure of a store that has caused an error of a library, or None."""
    while error is not None:
        here = getattr(error, "filename", None) is not None  # a file of this machine
        if not here and (
            is_passing(error)
            or _is_unknown_caller(error)
            or _is_denied(error)
            or _NO_ANSWER.search(str(error))
        ):
            return error
        error = error.__cause__ or error.__context__
    return None


def reason_of(error: BaseException | None) -> str | None:
    """Why the store failed, if an error of Orbax comes from it, in a few words."""
    found = of_store(error)
    if found is None:
        return None
    if _is_unknown_caller(found):
        return "no valid credentials were found"
    if _is_denied(found):
        return "access is denied"
    return f"the store does not answer ({_cause(found)})"


def is_taken(error: BaseException) -> bool:
    """Whether a precondition of a call was not met."""
    texts = (str(one) for one in (error, error.__cause__) if one is not None)
    return isinstance(error, FileExistsError) or any(
        "PreconditionFailed" in text or "pre-conditions" in text.lower()
        for text in texts
    )


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    if _is_unknown_caller(error):
        return False
    if status := _status(error):
        return status in _PASSING_STATUS
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _PASSING_ERRNO
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(
        kinds
        & {
            "aiohttp.client_exceptions.ClientError",
            "botocore.exceptions.ConnectionError",
            "botocore.exceptions.HTTPClientError",
            "gcsfs.retry.ChecksumError",
            "requests.exceptions.RequestException",
        }
    )


def _status(error: BaseException) -> int | None:
    """The status with which a store has answered."""
    response = getattr(error, "response", None)  # of botocore
    answer = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = str(answer.get("HTTPStatusCode") or getattr(error, "code", None))
    return int(status) if status.isdigit() else None


def _is_unknown_caller(error: BaseException) -> bool:
    kind, cause = type(error).__name__, error.__cause__
    return (
        _status(error) == 401
        or (cause is not None and _status(cause) == 401)  # s3fs knows no such error
        or "Credentials" in kind
        or "RefreshError" in kind
        or bool(_UNKNOWN_CALLER.search(str(error)))
    )


def _is_denied(error: BaseException) -> bool:
    if isinstance(error, PermissionError) or _status(error) == 403:
        return True
    text = str(error)
    return "PERMISSION_DENIED" in text or (
        isinstance(error, OSError) and "Forbidden" in text
    )


def is_known(error: BaseException) -> bool:
    """Whether it is of a library of the stores, and no defect."""
    libraries = ("aiohttp", "botocore", "gcsfs", "google", "requests", "s3fs")
    return isinstance(error, OSError | ValueError) or type(error).__module__.startswith(
        libraries
    )


def reason(error: BaseException, *, anonymous: bool = False) -> str:
    """Why a call failed and what to do, without anything that may be secret."""
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or object. Check its name."
    if anonymous or _is_unknown_caller(error):
        without = (
            f" Asked without any, it fails ({_cause(error)})." if anonymous else ""
        )
        return (
            "no valid credentials were found. Set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for s3://; for gs:// run 'gcloud auth "
            "application-default login' or set GOOGLE_APPLICATION_CREDENTIALS."
            + without
        )
    if _is_denied(error):
        return "access is denied. Give this account the right to it, or name another."
    return f"{_cause(error)}. Run the same command again when the store answers."


def _cause(error: BaseException) -> str:
    if status := _status(error):
        return f"HTTP {status}"
    if found := _NO_ANSWER.search(str(error)):
        return found[0]
    return str(getattr(error, "strerror", None) or type(error).__name__)
