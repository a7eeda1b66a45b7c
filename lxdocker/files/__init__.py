"""Files on this host: with the rights they should have whatever the umask is, and temporary folders."""
