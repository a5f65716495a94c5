"""Scripts that measure claims: each prints a table or a ratio taken in one run."""
