"""The command line: commands, what they print, and progress on a terminal."""
