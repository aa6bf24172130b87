"""What models are made of: torch alone, usable in a notebook without the rest of the platform."""
