"""Table 2, Figures 4 and 9: inversion and reconstruction of real images."""
