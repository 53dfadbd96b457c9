"""Checks of ``ortforge doctor``, one file each: what ortforge needs of the machine, and what spoils its numbers."""
