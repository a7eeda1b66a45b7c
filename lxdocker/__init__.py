"""lxdocker: Docker/OCI images as LXD images, built by LXD, published for every other LXD."""

__version__ = "0.1.0"
