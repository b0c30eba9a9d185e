"""The errors of requests to the platform."""

from engine.errors import AdapterError


class RemoteError(AdapterError):
    """A request to the platform failed.

    The text has the status and the platform's error codes, never its messages: these may quote the request.
    """


class Refused(RemoteError):
    """The platform rejected a request, which is therefore not retried.

    Attributes:
        status: the HTTP status, 300 to 499.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status

    @property
    def may_accept_fewer(self) -> bool:
        """Whether the same request for fewer records may be accepted."""
        return self.status in (400, 413, 422)


class Unreadable(RemoteError):
    """The response could not be parsed in any try; a request for fewer records may work."""
