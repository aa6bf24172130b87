"""Texts that a trained model goes on with."""
