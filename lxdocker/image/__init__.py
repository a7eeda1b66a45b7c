"""A finished image: its two files, what it was made from, its version keys."""
