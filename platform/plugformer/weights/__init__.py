"""Weights from elsewhere, and out again."""
