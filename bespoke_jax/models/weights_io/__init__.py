"""Reading weights from files that may come from strangers."""
