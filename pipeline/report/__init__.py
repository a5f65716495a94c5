"""What came out: rows, recommendation, tables, charts, the page, MLflow."""
