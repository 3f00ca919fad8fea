"""Batches and a model to trained weights; knows neither model nor task.

May import `errors` and `config`.
"""
