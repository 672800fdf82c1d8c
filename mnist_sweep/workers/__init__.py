"""Where trials run: worker processes, one for each slot."""
