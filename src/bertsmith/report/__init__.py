"""Reports: one HTML file each that needs nothing beside it, and runs no script.

Knows nothing of models or tasks, and imports nothing of this package.
"""
