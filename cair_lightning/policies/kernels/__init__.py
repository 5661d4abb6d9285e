"""Ways to compute the attention of a `Layout`: prepared once per forward pass, then run by every layer."""
