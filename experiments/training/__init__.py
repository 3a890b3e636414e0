"""How the bundled models were made: resumable trainings and their model cards."""
