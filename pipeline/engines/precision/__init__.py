"""Graphs in float16, bfloat16 and int8."""
