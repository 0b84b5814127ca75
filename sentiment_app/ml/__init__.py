"""The model code for serving: text, word lists, scoring, artifacts. It depends on neither Flask nor the database."""
