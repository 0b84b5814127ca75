"""Training: datasets, the pipeline, experiments, evaluation and reports."""
