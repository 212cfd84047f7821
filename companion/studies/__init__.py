"""One family of results each: the procedure over items, and the study that loads, measures, records and shows."""
