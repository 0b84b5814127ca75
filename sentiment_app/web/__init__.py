"""HTTP code that all features share: the operation decorator, the guard, rate limits, problems, OpenAPI, health."""
