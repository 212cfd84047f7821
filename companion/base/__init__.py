"""What everything else stands on: places, parameters, whole files, machines, progress, hashes of the code."""
