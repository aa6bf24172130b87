"""Models of the transformers library, weight for weight."""
