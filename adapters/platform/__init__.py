"""The platform: its items, read and answered and stored, many at a time."""
