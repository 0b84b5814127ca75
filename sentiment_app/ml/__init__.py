"""The model: trained, kept, loaded and asked. Plain Python and scikit-learn; knows no Flask and no database."""
