"""How the bundled models were made: resumable trainings, model cards, and what is written beside the weights."""
