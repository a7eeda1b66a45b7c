"""``python -m lxdocker``."""

from lxdocker.cli.main import main

main()
