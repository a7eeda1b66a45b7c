"""The program, also as ``python -m lxdocker``."""

import gc
import signal

PROGRAM_OBJECTS = 100_000  # about what a command has loaded when it gets to work


def collect_later() -> None:
    """Leaves garbage alone until the program is loaded. What is loaded stays, and looking at it again and again takes a
    tenth of the time.
    """
    usual = gc.get_threshold()

    def loaded(phase: str, _: dict[str, int]) -> None:
        if phase == "stop":
            gc.callbacks.remove(loaded)
            gc.freeze()
            gc.set_threshold(*usual)

    gc.callbacks.append(loaded)
    gc.set_threshold(PROGRAM_OBJECTS)


def main() -> None:
    """Loads the command line and runs it, which ends the program. Exit status: as lxdocker.cli.main.main()."""
    # As long as there is nothing to stop, Ctrl-C just ends the program. Python would print what it was loading.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    collect_later()
    from lxdocker.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
