"""What scripts/bench measures, and with what. A figure is one function in figures.py."""
