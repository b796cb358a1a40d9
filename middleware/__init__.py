"""Dramatiq middleware around tq's rules. Each takes what it works with in `__init__`."""
