"""Feedback: the right labels that people give to texts whose scores are wrong, for training."""
