"""Runs side by side, from what stands in their directories."""
