"""Telling others what has changed or failed: a command of the user's, or a URL."""
