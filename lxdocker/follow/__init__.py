"""Images of another server on this host: adding it as a remote, or importing them where LXD cannot follow by itself."""
