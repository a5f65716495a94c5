"""One module or folder per backend."""
