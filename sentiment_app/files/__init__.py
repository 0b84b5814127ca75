"""Read texts from files as a stream. This package depends on neither Flask nor the database."""
