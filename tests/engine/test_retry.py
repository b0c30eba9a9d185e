"""How long a server asks to wait: a number of seconds, or a date."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from engine.retry import retry_after


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("1.5", 1.5), ("-3", 0), ("nan", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_seconds_and_past_dates_are_read(header: str, seconds: float):
    assert retry_after(header) == seconds


def test_a_date_is_that_many_seconds_from_now():
    assert (
        50 < (retry_after(format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)) or 0) <= 60
    )


@pytest.mark.parametrize("header", [None, "", "soon", "Wed, 21 Oct"])
def test_what_is_neither_is_ignored(header: str | None):
    assert retry_after(header) is None
