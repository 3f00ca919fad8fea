"""Packed batches to hidden states, logits and losses.

May import `errors` and `config`.
"""
