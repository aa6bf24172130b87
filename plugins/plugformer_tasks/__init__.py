"""Heads, objectives and metrics."""
