"""From a raw wheel to one that can be handed on: fixed, repaired, named, audited, documented and indexed."""
