"""What goes wrong in practice: found, explained, and mended where that is safe."""
