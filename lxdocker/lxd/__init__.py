"""LXD: its API, background operations, commands in instances, its image store, and how one LXD differs from another."""
