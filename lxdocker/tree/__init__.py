"""The published tree: versions, the simplestreams index, the catalogue page; it is checked, copied and patched here."""
