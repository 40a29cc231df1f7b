"""The proof that an output computes what its edits mean. It imports no edit, so it cannot share an edit's mistakes."""
