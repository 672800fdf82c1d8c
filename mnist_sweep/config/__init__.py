"""What a config may say: its types, its checks, and the search space that it describes."""
