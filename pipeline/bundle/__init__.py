"""What goes into a bundle: which level, its golden inputs, its manifest, its archive."""
