"""Small classifiers of digits and hands; their features serve FID, KID and a perceptual distance.

"digits" reads digits turned by any angle, "hands" photographs of hands signing digits. Neither is
Inception or LPIPS: numbers from these features compare methods within this project and nothing
else. `experiments.training` makes them.
"""

from .loading import KINDS, Reference, load_classifier, load_reference
from .networks import Classifier, DigitClassifier, HandClassifier

__all__ = [
    "KINDS",
    "Classifier",
    "DigitClassifier",
    "HandClassifier",
    "Reference",
    "load_classifier",
    "load_reference",
]
