"""All planted faults and harmless changes; importing this fills the lists of :mod:`planting`."""

import harmless_changes
import plant_classifiers
import plant_detectors
import plant_encoders
import plant_pictures
import plant_quantization
import plant_variants
from planting import FAULTS, HARMLESS, Fault, Harmless

__all__ = ["FAULTS", "HARMLESS", "Fault", "Harmless"]

FAMILIES = (
    plant_detectors,
    plant_classifiers,
    plant_encoders,
    plant_pictures,
    plant_quantization,
    plant_variants,
    harmless_changes,
)
