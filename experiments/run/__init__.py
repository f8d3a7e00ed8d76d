"""A run: its folder, checkpoints, processes, interruptions and command line."""
