"""What people write: specs and settings, as YAML, variables and flags, checked against schema/."""
