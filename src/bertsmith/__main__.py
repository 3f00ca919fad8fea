"""Lets `python -m bertsmith` do what `bertsmith` does."""

import sys

from bertsmith.cli import main

sys.exit(main())
