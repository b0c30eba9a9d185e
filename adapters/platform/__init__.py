"""The platform: reads, answers and stores its items, many at a time."""
