"""The process that runs a sweep: its loop, its state, and what comes before and after it."""
