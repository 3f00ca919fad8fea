"""Who computes an encoder's states in use: an object with the encoder's own call signature.

May import `errors`, `config`, `text`, `data`, `model`, `tasks` and `folder`.
"""
