"""The graph of a model: its nodes and values, operators, constants, types and dims; editing it and writing it back."""
