"""What `tools/sd15_rehearsal.py` runs the presets on: a pipeline, adapters and folders of pictures that stand in for the published ones."""
