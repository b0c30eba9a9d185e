"""How long a server asks to wait before the next try: its Retry-After header."""

from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after(header: str | None) -> float | None:
    """A Retry-After header, which is a number of seconds or a date, as seconds from now.

    Returns:
        At least 0; None without a header, or if it is neither.
    """
    if header is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(header))  # In this order a NaN is 0.
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    return None
