"""What the benchmarks share: running commands in turns, watching processes, records as JSON, tables and plots."""
