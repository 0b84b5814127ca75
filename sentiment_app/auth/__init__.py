"""Signing up, in and out: the tokens that stand for a session."""
