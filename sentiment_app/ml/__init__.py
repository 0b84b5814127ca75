"""The model as it is served: text, word lists, scoring, artifacts. Knows neither Flask nor the database."""
