"""Scoring text, and the history of what was scored."""
