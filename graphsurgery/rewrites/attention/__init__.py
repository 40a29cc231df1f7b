"""One operator for each attention: what the nodes of a decomposed attention compute, and the operator in their place."""
