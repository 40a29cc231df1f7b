"""Reading a graph: what is pooled, how wide it is, which input is the mask, how large the vocabulary is."""
