"""Published data sets, read from a folder that holds one as it comes out of its archive."""
