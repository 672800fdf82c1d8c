"""A sweep's record on disk: its events, its folder and the ranking of its trials."""
