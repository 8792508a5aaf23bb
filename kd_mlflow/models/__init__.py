"""MLflow models of any origin: made, fetched, loaded and asked, here or in a clean process."""
