"""What Docker's users bring along, as specs and `lxc` commands. Pure: text comes in, values go out."""
