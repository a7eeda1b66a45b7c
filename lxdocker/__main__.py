"""``python -m lxdocker``."""

from lxdocker.cli import main

main()
