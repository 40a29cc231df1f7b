"""The bench verb: models side by side, by latency, throughput and memory."""
