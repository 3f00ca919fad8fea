"""What lies inside a model.

May import every room but `cli`.
"""
