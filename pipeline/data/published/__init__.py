"""Published data sets, read from a folder that holds one as unpacked."""
