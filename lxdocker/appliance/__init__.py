"""The appliance: an LXD container that syncs by a timer and serves the images, and what it needs on its host."""
