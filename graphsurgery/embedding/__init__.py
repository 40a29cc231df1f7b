"""Texts to vectors: a folder's tokenizer and prompts, batches that fit the machine, and a session that runs them."""
