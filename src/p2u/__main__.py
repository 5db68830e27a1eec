"""Run the command line as ``python -m p2u``."""

from p2u.cli import main

main()
