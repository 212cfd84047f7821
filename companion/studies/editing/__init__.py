"""Text edits (Sec. 4.4): the benchmark, Figures 5 and 10, and the question of better inversions."""
