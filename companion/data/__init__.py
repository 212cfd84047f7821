"""Captioned images as items, whatever they come from."""
