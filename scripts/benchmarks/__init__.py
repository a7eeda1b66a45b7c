"""The measurements of scripts/bench. Each figure is a function in figures.py."""
