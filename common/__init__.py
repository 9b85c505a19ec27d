"""What all rooms need and none owns: clear errors, whole files, the cache, reading pictures."""
