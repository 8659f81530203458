"""What is learned from: data sets and their batches.  Knows nothing of training."""
