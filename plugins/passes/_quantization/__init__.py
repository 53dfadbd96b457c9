"""What the quantizing passes share: preparation, calibration, types, and the guards of data, ranges and scales."""
