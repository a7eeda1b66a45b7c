"""One run: what is wanted against what is held, the actions that follow, and what came of them."""
