"""What the notebooks share and is no geometry: data, pictures, figures, evaluation, training."""
