"""The builder: its image, where it is placed, the life of one, and the steps of a build in it."""
