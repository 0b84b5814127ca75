"""Outgoing notifications: an outbox in PostgreSQL, signatures, and safe requests to URLs of users."""
