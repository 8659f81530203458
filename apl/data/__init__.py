"""What is learned from: data sets, people's own files, what people decided about labels."""
