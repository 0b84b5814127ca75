"""Infrastructure that all features share: the database, the queue, logs, metrics, and tools for concurrency."""
