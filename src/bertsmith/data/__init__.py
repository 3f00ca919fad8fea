"""Pieces to examples to packed batches, and the readers of every file.

May import `errors`, `config` and `text`; torch is imported by `batches.py` alone.
"""
