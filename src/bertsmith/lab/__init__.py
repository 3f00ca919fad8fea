"""What lies inside a model, and the paper as experiments. May import every room but interop, serve and cli."""
