"""The verb ``sweep``."""
