"""One operator for each rotation by position: what its nodes compute, and the operator in their place."""
