"""One run: what is trained, how, and what it scores."""
