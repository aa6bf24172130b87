"""From raw samples to batches: torch alone."""
