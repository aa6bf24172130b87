"""Attention mechanisms whose cost grows with the length, not with its square."""
