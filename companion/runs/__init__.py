"""The result of every item once, stored where the next run finds it."""
