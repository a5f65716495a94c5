"""How long things take with many variants."""
