"""What there is to see and hear of validations and of the test: samples, the hardest of them, confusions, attention."""
