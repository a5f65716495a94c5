"""Which blocks are removed, in which order, and which level is shipped."""
