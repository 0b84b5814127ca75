"""Batch scoring: a task has many rows, which workers score chunk by chunk."""
