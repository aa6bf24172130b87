"""Going on with sequences: one token after the other, by a trained model. Torch only."""
