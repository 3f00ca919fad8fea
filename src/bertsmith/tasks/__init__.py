"""What each task reads, predicts and scores.

May import `errors`, `config`, `text`, `data` and `model`.
"""
