"""The model registry: releases, promotion, serving, model cards, and the `flask model` commands."""
