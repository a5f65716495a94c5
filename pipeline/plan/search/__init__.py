"""In which order blocks are removed."""
