"""How dispensable each block is."""
