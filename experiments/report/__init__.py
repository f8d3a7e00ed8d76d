"""What a run leaves to look at: an HTML page and pictures."""
