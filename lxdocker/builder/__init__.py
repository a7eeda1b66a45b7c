"""The builder: its image, the life of one ephemeral builder, and the recipe a build follows in it."""
