"""Images: from their sources to arrays, and as later stages read them."""
