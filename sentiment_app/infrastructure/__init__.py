"""What every feature stands on: the database, the queue, logs, metrics, and tools for concurrency."""
