"""Mechanisms side by side: time and memory of one attention layer against the length, and what follows from them."""
