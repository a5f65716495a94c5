"""The tables and plots of docs/results.md, from benchmarks/results/*.jsonl."""
