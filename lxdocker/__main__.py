"""The program, also as ``python -m lxdocker``."""

import signal


def main() -> None:
    """Loads the command line and runs it, which ends the program. Exit status: as lxdocker.cli.main.main()."""
    # As long as there is nothing to stop, Ctrl-C just ends the program. Python would print what it was loading.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from lxdocker.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
