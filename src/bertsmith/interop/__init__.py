"""Other people's formats: checkpoints that were not written here, and those that others read.

May import `folder`, `tasks` and what stands below them.
"""
