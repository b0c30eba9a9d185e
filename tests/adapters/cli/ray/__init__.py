"""A bulk run on Ray."""
