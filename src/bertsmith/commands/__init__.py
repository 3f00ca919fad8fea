"""The commands: flags become settings, settings go to one function.

Torch and the rooms that need it are imported by the commands themselves, so that `--help` answers
at once.
"""
