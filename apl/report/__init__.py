"""What is read of a study: tables, claims, pictures, the page.  Knows nothing of training."""
