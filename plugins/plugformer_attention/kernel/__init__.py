"""Attention whose weights are products of features."""
