"""Audio: tokenizers and data."""
