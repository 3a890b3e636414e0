"""What the notebooks share and is no geometry: data, pictures, figures, evaluation, pairs, training of the bundled models."""
