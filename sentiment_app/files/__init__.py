"""Reading tables of texts from files, as a stream. Knows neither Flask nor the database."""
