"""Text to pieces: normalising, splitting into words and sentences, WordPiece; no torch.

May import `errors` and `config`.
"""
