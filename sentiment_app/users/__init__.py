"""Accounts, their passwords and sessions."""
