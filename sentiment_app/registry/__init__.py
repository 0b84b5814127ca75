"""The model registry: releases, promotion, serving, model cards, and the `sentiment model` commands."""
