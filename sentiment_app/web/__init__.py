"""HTTP that belongs to no feature: the operation decorator, the guard, rate limits, problems, OpenAPI, health."""
