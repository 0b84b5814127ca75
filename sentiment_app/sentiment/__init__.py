"""Scoring a text, and the history of scored texts."""
