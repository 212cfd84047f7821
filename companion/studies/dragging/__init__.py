"""Figure 6 and the benchmark of drags: points of a picture pulled to other places, measured against rendered truth."""
