"""Rooms put together, top to bottom. May import every room but predict, lab and cli."""
