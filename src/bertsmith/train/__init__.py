"""Batches and a model to trained weights; knows no task. May import errors and config."""
