"""How the bundled models were made: resumable training, model cards, and what is written beside the weights."""
