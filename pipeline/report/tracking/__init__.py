"""Everything that knows MLflow, the index over the metrics files.

The store is a convenience and never a reason for a stage to fail: whatever goes wrong with it
becomes one `TrackingError`, within seconds, for the caller to decide.
"""
