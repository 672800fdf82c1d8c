"""The config: its types, its checks, and the search space that it describes."""
