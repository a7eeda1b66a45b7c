"""What is injected into every image, and how it is rendered from what the image says."""
