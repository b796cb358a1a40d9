"""Logs: their shape, and what never shows in them."""
