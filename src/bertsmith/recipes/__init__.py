"""Rooms put together, top to bottom, one file for each main job.

May import every room but `predict`, `lab` and `cli`.
"""
