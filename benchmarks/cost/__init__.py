"""What surgery costs: the parts of `surgery_cost.py`."""
