"""Every error the system raises on purpose.

SpecRouterError
├── InputError              the user wrote something wrong; exit code 2, HTTP 400
│   ├── ConfigError         a pool file or a setting
│   ├── RequestError        one request's fields
│   └── NotFoundError       a pool, member or model that does not exist; HTTP 404
├── NoRoomError             slots or KV blocks are used up; HTTP 429, or a shorter chain
│   └── RateLimitError      a key's limit or a queue of the service is full; HTTP 429
├── AuthenticationError     no API key, or a wrong one; HTTP 401
├── DeadlineError           a request was not done in time; HTTP 408
├── UnavailableError        the target is lost and not back yet; HTTP 503
├── SnapshotError           what a router remembered cannot be used
├── LinkError               a link is closed or broken
│   └── FrameError          bytes that are no frame of ours
└── EngineError             a model cannot be run as asked (unsupported architecture)
"""


class SpecRouterError(Exception):
    """Root of every error raised on purpose."""


class InputError(SpecRouterError):
    """The user's input is wrong; the message names the field and the accepted values."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(InputError):
    """A pool file or a setting is wrong."""


class RequestError(InputError):
    """One request's field is wrong."""


class NotFoundError(InputError):
    """A pool, member or model that does not exist was named."""


class NoRoomError(SpecRouterError):
    """Session slots or KV blocks are used up; try again later or go without this member."""


class RateLimitError(NoRoomError):
    """A limit of the service is reached; the same request may be taken later."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AuthenticationError(SpecRouterError):
    """The request carries no API key that the service knows."""


class DeadlineError(SpecRouterError):
    """The request was not done by its deadline, and has been cancelled."""


class UnavailableError(SpecRouterError):
    """The target cannot be reached now."""


class SnapshotError(SpecRouterError):
    """What a router remembered cannot be used; it starts without."""


class LinkError(SpecRouterError):
    """A link is closed or broken."""


class FrameError(LinkError):
    """Bytes that are no valid frame of ours; the link is closed, no session is touched."""


class EngineError(SpecRouterError):
    """A model cannot be run as asked."""
