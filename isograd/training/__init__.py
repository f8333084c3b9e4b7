"""Data, the training loop, and the folder in which a run is kept."""
