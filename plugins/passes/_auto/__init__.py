"""The search of quantize-auto: schemes, candidates, the noise of single nodes, and the bench that they are tried on."""
