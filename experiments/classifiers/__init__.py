"""Classifiers of digits and of hands, whose features the evaluation uses."""
