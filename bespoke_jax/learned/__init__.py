"""What can be learned: the families of solvers, one file each."""
