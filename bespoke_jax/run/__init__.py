"""Running solvers: solving and sampling, the adjoint evaluation by evaluation, true paths and their accuracy."""
