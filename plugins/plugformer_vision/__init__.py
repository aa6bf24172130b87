"""Images: tokenizers and data."""
