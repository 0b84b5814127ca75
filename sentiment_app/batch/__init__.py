"""Scoring by the million: tasks of many texts, cut into chunks that workers score, with results that are kept."""
