"""Which labels are wrong: evidence, scores, a search, and what goes out to be reviewed."""
