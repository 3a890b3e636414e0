"""Tools that keep the repository in order; nothing in lib or in a notebook needs them."""
