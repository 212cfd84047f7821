"""Step-wise variation regularization: the loss, ways to its gradient, its profile along diffusion time."""
