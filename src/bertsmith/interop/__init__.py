"""Other people's formats: models written so that their own programs read them, and read back.

May import `errors`, `config`, `storage`, `text`, `data`, `model`, `tasks` and `folder`.
"""
