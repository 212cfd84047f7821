"""What `tools/prove_same.py` computes."""
