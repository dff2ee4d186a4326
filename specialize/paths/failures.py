"""Why a call of a store has failed, in words without anything that may be secret."""

import errno
import re
from collections.abc import Iterator

_PASSING_ERRNO = (
    errno.EBUSY,
    errno.EREMOTEIO,
    errno.EIO,
    errno.ECONNRESET,
    errno.EPIPE,
)
# 409: S3 has another conditional write of the same object at this moment.
_PASSING_STATUS = (408, 409, 429, 500, 502, 503, 504)
# Statuses of a client's errors by which a store says something of the object.
_OF_AN_OBJECT = (404, 410, 416)
# What TensorStore says of it.
_UNKNOWN_CALLER = re.compile("UNAUTHENTICATED|http_response_code='401'")
_HTTP_STATUS = re.compile(r"http_response_code='(\d{3})'")
_NO_ANSWER = re.compile("UNAVAILABLE|DEADLINE_EXCEEDED")

_RENEW = "Renew them, for s3:// with their AWS_SESSION_TOKEN"
_AGAIN = "and run the same command again."
_CLOCK = (
    "the clock of this machine is wrong",
    f"Set it by a time server, {_AGAIN}",
)
_EXPIRED = ("the credentials have expired", f"{_RENEW}, {_AGAIN}")
_INVALID = (
    "the store does not accept the credentials",
    f"Check AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, {_AGAIN}",
)
# The store says no more to a request for the metadata of an object.
_BAD_REQUEST = (
    "the store refuses the request (HTTP 400)",
    "Most often the credentials have expired or the clock of this machine is wrong. "
    f"{_RENEW}, or set the clock, {_AGAIN}",
)
# What a store says of whoever asks, apart from a missing right: why, and what to do.
_OF_THE_CALLER = {
    **dict.fromkeys(("ExpiredToken", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired"), _CLOCK),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch"), _INVALID),
    **dict.fromkeys(("InvalidToken", "InvalidSecurity", "NotSignedUp"), _INVALID),
    "400": _BAD_REQUEST,
}
# What helps if access is denied.
GRANT = "Give this account the right to it, and run the same command again"
# What Google's library says of a key that it has signed with a wrong clock.
_SKEWED = "Token must be a short-lived token"


def of_store(error: BaseException | None) -> BaseException | None:
    """The failure of a store that has caused an error of a library, or None."""
    for one in causes(error):
        here = getattr(one, "filename", None) is not None  # a file of this machine
        if not here and (
            is_passing(one) or is_refusal(one) or _NO_ANSWER.search(str(one))
        ):
            return one
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, what caused it, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def reason_of(error: BaseException | None) -> str | None:
    """Why the store failed, if an error of Orbax comes from it, in a few words."""
    found = of_store(error)
    if found is None:
        return None
    if caller := _of_the_caller(found):
        return caller[0]
    if _is_unknown_caller(found):
        return "no valid credentials were found"
    if _is_denied(found):
        return "access is denied"
    does = "refuses the request" if is_refusal(found) else "does not answer"
    return f"the store {does} ({_cause(found)})"


def remedy_of(error: BaseException | None) -> str:
    """What to do about the failure that `reason_of` names, without a full stop."""
    found = of_store(error)
    if found is None or not is_refusal(found):
        return "Run the same command again when the store answers"
    if caller := _of_the_caller(found):
        return caller[1].rstrip(".")
    return GRANT


def is_refusal(error: BaseException) -> bool:
    """Whether the store does not do what it is asked, and will not do it later.

    That it does not have an object, or not so many bytes of it, is none.
    """
    status = _status(_origin(error)) or _status(error) or 0
    return not is_passing(error) and (
        _of_the_caller(error) is not None
        or _is_unknown_caller(error)
        or _is_denied(error)
        or (400 <= status < 500 and status not in _OF_AN_OBJECT)
    )


def is_silent(error: BaseException) -> bool:
    """Whether a store that refuses a call may say why when it is asked differently.

    S3's answer to HEAD has no text.
    """
    return _code(error) in ("400", "403")


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
    if found := _HTTP_STATUS.search(str(error)):
        status = found[1]
    return int(status) if status.isdigit() else None


def _origin(error: BaseException) -> BaseException:
    """The error of S3's library that s3fs has translated; otherwise the error."""
    if isinstance(error, OSError):
        for one in (error.__cause__, error.__context__):
            if one is not None and isinstance(getattr(one, "response", None), dict):
                return one
    return error


def _code(error: BaseException) -> str:
    """The word with which S3 has refused a call; its status if it said none."""
    response = getattr(_origin(error), "response", None)
    said = response.get("Error", {}) if isinstance(response, dict) else {}
    return str(said.get("Code", ""))


def _of_the_caller(error: BaseException) -> tuple[str, str] | None:
    """Why the store refuses whoever asks, and what to do."""
    if _SKEWED in str(error):
        return _CLOCK
    return _OF_THE_CALLER.get(_code(error))


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
    if caller := _of_the_caller(error):
        return ". ".join(caller)
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
    if is_refusal(error):
        return f"the store refuses the request ({_cause(error)})."
    return f"{_cause(error)}. Run the same command again when the store answers."


def _cause(error: BaseException) -> str:
    if status := _status(_origin(error)) or _status(error):
        code = _code(error)
        said = f", {code}" if code.isalpha() else ""
        return f"HTTP {status}{said}"
    if found := _NO_ANSWER.search(str(error)):
        return found[0]
    return str(getattr(error, "strerror", None) or type(error).__name__)
