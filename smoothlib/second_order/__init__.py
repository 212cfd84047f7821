"""The network's layers with first and second derivatives that are made for `double_backward`, exact in half precision too."""
