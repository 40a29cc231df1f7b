"""The parts of an encoder, read off its graph: inputs by role, hidden state, layers, attention, norms, activations."""
