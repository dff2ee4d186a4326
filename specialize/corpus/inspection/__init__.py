"""Looking at records and at a whole corpus."""
